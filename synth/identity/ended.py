"""What becomes of images when a consent that they were made with is over: the step drops them, `forget` erases them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field

from tilth.claims import Json
from tilth.data.where import both
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.samples import Result, Sample
from tilth.synth.safety.consent import records_in

CHILDREN = both("made", """origin like '%"consent"%'""")


@step
class DropEnded:
    """Drop the images that were made with consents which are over; `ended` has the reason by record."""

    ended: dict[str, str] = field(default_factory=dict)
    batch_size: int = 256

    def models(self) -> tuple[str, ...]:
        """None: the origins say it."""
        return ()

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Nothing to load."""
        return lambda samples: [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Result:
        over = next((name for name in records_in(sample.origin).values() if name in self.ended), None)
        return Result(dropped=f"made with the consent {over}, which {self.ended[over]}" if over else "")


def drop_ended(work: Work, ended: Mapping[str, str]) -> int:
    """Drop what was made with consents that are over, and return how many images those were; those that hold again come back."""
    if old := [ref for ref in work.dataset.at.tables if ref.step == work.name and not ref.adds]:
        work.dataset.decide_anew(old, ())
    if not ended or not work.dataset.count(CHILDREN):
        return 0
    return work.map(DropEnded(ended=dict(ended)), CHILDREN, label=f"{work.name}: consent").get("dropped", 0)


@step
class Forget:
    """Erase all images that were made with a consent which a person took back: their bytes leave the pool, and so every version.

    What was exported, and models that were trained on it, are elsewhere: export anew, and train anew.

    Args:
        records: Names of the records, as in `[form-17]`.
    """

    records: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that there is something to forget."""
        if not all(name.strip() for name in self.records) or not self.records:
            raise ValueError("records must name at least one consent record, as in [form-17]")

    def run(self, work: Work) -> Facts:
        """Look at the origin of every image there ever was."""
        found: Counter[str] = Counter()

        def why(origin: Mapping[str, Json]) -> str | None:
            named = [name for name in records_in(origin).values() if name in self.records]
            found.update(named)
            return f"made with the consent {named[0]}, which was taken back" if named else None

        erased = work.dataset.erase(why, work.now())
        return {"erased": len(erased), "by_record": {name: found[name] for name in self.records}}
