"""Find images in a corpus, then clean what was found."""

STEPS = {
    "mine": "tilth.mining.search.mine:Mine",
    "verify": "tilth.mining.search.verify:Verify",
    "hash": "tilth.mining.copies.hash:Hash",
    "quality": "tilth.mining.cleaning.quality:Quality",
    "words": "tilth.mining.cleaning.words:Words",
    "label_errors": "tilth.mining.cleaning.label_errors:LabelErrors",
    "filter": "tilth.mining.cleaning.filter:Filter",
    "dedup": "tilth.mining.copies.dedup:Dedup",
    "leakage": "tilth.mining.copies.leakage:Leakage",
    "dedup.text": "tilth.mining.copies.dedup_text:DedupText",
    "second_opinion": "tilth.mining.cleaning.second_opinion:SecondOpinion",
    "split": "tilth.mining.cleaning.split:Split",
}
