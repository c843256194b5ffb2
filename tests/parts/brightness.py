"""A mapper that needs no model."""

import time
from collections.abc import Callable, Sequence

from tilth.claims import Claim
from tilth.engine.steps import step
from tilth.samples import Result, Sample


@step
class Brightness:
    """Measure the mean of the pixels; images whose first byte is in `refuse` fail."""

    batch_size: int = 8
    refuse_below: float = -1.0
    slow_s: float = 0.0

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        def measure(samples: Sequence[Sample]) -> list[Result]:
            time.sleep(self.slow_s)
            means = [float(s.pixels().mean()) for s in samples]
            if any(m < self.refuse_below for m in means):
                raise ValueError("too dark")
            claim = Claim(says="empty", source="model:brightness@1")
            return [Result(claims=(claim,), columns={"mean": m}, dropped="bright" if m > 140 else "") for m in means]

        return measure
