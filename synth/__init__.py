"""Make images where the dataset is thin, of harmless kinds of subjects only, each with its provenance."""

STEPS = {
    "generate": "tilth.synth.draw.generate:Generate",
    "train.lora": "tilth.synth.adapters.training:TrainLora",
    "restyle": "tilth.synth.adapters.restyle:Restyle",
    "adherence": "tilth.synth.check.adherence:Adherence",
}
