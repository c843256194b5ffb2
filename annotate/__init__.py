"""Label images."""

STEPS = {
    "import": "tilth.annotate.exchange.importing:Import",
    "import.text": "tilth.annotate.texts.importing:ImportText",
    "import.sound": "tilth.annotate.sounds.importing:ImportSound",
    "ground": "tilth.annotate.grounding.ground:Ground",
    "fuse": "tilth.annotate.boxes.fuse:Fuse",
    "thresholds": "tilth.annotate.grounding.thresholds:Thresholds",
    "export": "tilth.annotate.exchange.export:Export",
    "review": "tilth.annotate.review.review:Review",
    "review.text": "tilth.annotate.texts.review:ReviewText",
}
