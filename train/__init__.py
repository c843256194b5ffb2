"""Learn from images and sounds: fine-tune, calibrate, evaluate, gate, export."""

STEPS = {
    "train.classifier": "tilth.train.learn.classifier:TrainClassifier",
    "train.few_shot": "tilth.train.learn.few_shot:FewShot",
    "train.detector": "tilth.train.learn.detector:TrainDetector",
    "train.speech": "tilth.train.speech.learning:TrainSpeech",
    "evaluate.sound": "tilth.train.speech.measuring:EvaluateSound",
    "train.person": "tilth.train.persons.train:TrainPerson",
    "relabel": "tilth.train.judge.relabel:Relabel",
    "calibrate": "tilth.train.judge.calibrate:Calibrate",
    "evaluate": "tilth.train.judge.evaluate:Evaluate",
    "gate": "tilth.train.judge.gate:Gate",
}
