"""What of a speech model is learned, and how clips are made worse meanwhile."""

from typing import Literal

from tilth.engine.steps import group


@group
class Tuning:
    """What is learned of a speech model beside the head, each part by itself.

    Args:
        body: `frozen` keeps its weights; `full` learns all of them, without LoRA.
        lora_rank: Of the small matrices beside attention and feed-forward layers; 0 for none.
        prompts: Learned frames before those of the sound; 0 for none.
        layers: `weighted` learns how much each layer counts; `last` takes the last alone.
    """

    body: Literal["frozen", "full"] = "frozen"
    lora_rank: int = 2
    prompts: int = 4
    layers: Literal["weighted", "last"] = "weighted"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.lora_rank < 0 or self.prompts < 0:
            raise ValueError(f"lora_rank and prompts must be at least 0, got {self.lora_rank} and {self.prompts}")


@group
class Views:
    """How often clips are made worse while they are learned from, as chances.

    Args:
        noise: Noise 0 to 25 dB below.
        room: Echoes of a room.
        band: The band of a telephone, or another narrow one.
        codec: Few bits a sample.
    """

    noise: float = 0.5
    room: float = 0.3
    band: float = 0.2
    codec: float = 0.2

    def __post_init__(self) -> None:
        """Check the chances."""
        for name in ("noise", "room", "band", "codec"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
