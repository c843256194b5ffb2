"""Name the dataset as it is at this point of a recipe."""

from typing import ClassVar

from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.samples import IMAGE, SOUND, TEXT


@step
class Tag:
    """Give the dataset's present version a name that later runs can go back to."""

    media: ClassVar[tuple[str, ...]] = (IMAGE, TEXT, SOUND)

    name: str

    def run(self, work: Work) -> Facts:
        """Set the tag."""
        work.dataset.tag(self.name)
        states = {str(state): count for (state,), count in work.dataset.tally("state").items()}
        return {"tag": self.name, "version": work.dataset.at.number, "samples": sum(states.values()), "states": states}
