"""Find images in a corpus, then clean what was found."""

STEPS = {
    "mine": "tilth.mining.mine:Mine",
    "verify": "tilth.mining.verify:Verify",
    "hash": "tilth.mining.hash:Hash",
    "quality": "tilth.mining.quality:Quality",
    "words": "tilth.mining.words:Words",
    "label_errors": "tilth.mining.label_errors:LabelErrors",
    "filter": "tilth.mining.filter:Filter",
    "dedup": "tilth.mining.dedup:Dedup",
    "leakage": "tilth.mining.leakage:Leakage",
    "second_opinion": "tilth.mining.second_opinion:SecondOpinion",
    "split": "tilth.mining.split:Split",
}
