"""Learn from images: fine-tune, calibrate, evaluate, gate, export."""

STEPS = {
    "train.classifier": "tilth.train.classifier:TrainClassifier",
    "train.detector": "tilth.train.detector:TrainDetector",
    "calibrate": "tilth.train.calibrate:Calibrate",
    "evaluate": "tilth.train.evaluate:Evaluate",
    "gate": "tilth.train.gate:Gate",
}
