"""The step `export`: the labelled images in a common format, for tools that know nothing of Tilth."""

import shutil

from tilth.annotate.exchange.exporting import export
from tilth.annotate.formats.writing import FORMATS
from tilth.claims import Json
from tilth.data.where import one_of
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError


@step
class Export:
    """Write the dataset as it is at this point of a recipe into the run's folder.

    The folder is published under the step's name. What the format cannot hold, such as who said what, lies beside the labels
    in `samples.jsonl`. Images that nobody and no model has judged stay out, and the facts count them.

    Args:
        format: One of those that `tilth export --help` names.
        splits: Only these; all when empty. Samples without a split are in the split "".
    """

    format: str = "coco"
    splits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the format."""
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")

    def run(self, work: Work) -> Facts:
        """Write the folder, whole or not at all.

        Raises:
            InputError: There is nothing to write.
        """
        out = work.folder / self.format
        shutil.rmtree(out, ignore_errors=True)  # of a run that was killed between writing and reporting
        out.parent.mkdir(parents=True, exist_ok=True)
        lost: list[Json] = []
        told = export(
            work.dataset,
            out,
            self.format,
            where=one_of("split", self.splits) if self.splits else "",
            categories=work.policy.names,  # all of them, so that class numbers are the same in every run
            say=lost.append,
        )
        if not told["images"]:
            raise InputError(f"{work.name}: no labelled image in {', '.join(self.splits) or 'any split'} to write")
        work.publish(work.name, out)
        return {**told, "said": lost}
