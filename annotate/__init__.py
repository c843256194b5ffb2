"""Label images."""

STEPS = {
    "import": "tilth.annotate.importing:Import",
    "ground": "tilth.annotate.ground:Ground",
    "fuse": "tilth.annotate.fuse:Fuse",
    "thresholds": "tilth.annotate.thresholds:Thresholds",
    "export": "tilth.annotate.export_step:Export",
    "review": "tilth.annotate.review:Review",
}
