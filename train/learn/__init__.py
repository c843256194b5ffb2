"""Fine-tune models on a dataset. Start with `fine_tune.py`, which is all but the loss; `lesson.py` is what a model is shown."""
