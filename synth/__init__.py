"""Make images where the dataset is thin, of harmless kinds of subjects only, each with its provenance."""

STEPS = {
    "generate": "tilth.synth.draw.generate:Generate",
    "train.lora": "tilth.synth.adapters.training:TrainLora",
    "restyle": "tilth.synth.adapters.restyle:Restyle",
    "face_swap": "tilth.synth.identity.swap:FaceSwap",
    "forget": "tilth.synth.identity.ended:Forget",
    "adherence": "tilth.synth.check.adherence:Adherence",
}
