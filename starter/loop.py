"""The training loop of the miniatures is the one that users train with."""

from tilth.train.loop import fit, learning_rate, pick_device

__all__ = ["fit", "learning_rate", "pick_device"]
