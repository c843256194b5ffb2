"""Label images."""

STEPS = {
    "import": "tilth.annotate.importing:Import",
    "ground": "tilth.annotate.ground:Ground",
    "review": "tilth.annotate.review:Review",
}
