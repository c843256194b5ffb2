"""Write down, through the engine, what was decided by looking at many samples together."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from tilth.engine.steps import step
from tilth.engine.work import Work
from tilth.samples import IMAGE, SOUND, TEXT, Result, Sample


@step
class Apply:
    """Give each sample the result that was found for it.

    Args:
        results: By sample id; what was decided is part of the key of the work.
        batch_size: Samples per call.
    """

    results: Mapping[str, Result]
    batch_size: int = 256

    media: ClassVar[tuple[str, ...]] = (IMAGE, TEXT, SOUND)
    local: ClassVar[bool] = True  # it only looks up what is known, so sending it to a cluster would gain nothing

    def models(self) -> tuple[str, ...]:
        """Name none."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Return the function that looks results up."""
        return lambda samples: [self.results[sample.id] for sample in samples]

    @classmethod
    def to(cls, work: Work, results: Mapping[str, Result], label: str = "") -> dict[str, int]:
        """Attach results to their samples."""
        return work.map(cls(results=results), ids=results.keys(), label=label)
