"""Tell the simulated reviewer what generated images really show, as no truth file can know them."""

import json
from collections.abc import Sequence

from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.samples import Sample

BATCH = 64


@step
class LabelMade:
    """Let the independent judge of the starter name the thing in every generated image.

    Only the simulated review reads the result; people look for themselves.

    Args:
        judge: The judge; it was trained on scenes that the generator never saw.
    """

    judge: str = "starter:judge"

    def models(self) -> tuple[str, ...]:
        """Name the judge."""
        return (self.judge,)

    def run(self, work: Work) -> Facts:
        """Write `made_truth`: one JSON line an image, with its id and category; no category when it shows nothing unsafe."""
        from tilth.models import locate
        from tilth.starter.diffusion.judge import load_judge

        model = load_judge(locate(self.judge).parent)
        wanted: dict[str, list[bool]] = {}
        path = work.folder / "made_truth.jsonl"
        names = {category.name for category in work.policy.pictured}
        with path.open("w") as stream:
            for batch in work.dataset.scan("made", batch_rows=BATCH):
                for sample, kind in zip(batch, self._kinds(model, batch), strict=True):
                    category = kind if kind in names else None
                    stream.write(json.dumps({"id": sample.id, "category": category, "kind": kind}) + "\n")
                    if isinstance(asked := sample.origin.get("category"), str):
                        wanted.setdefault(asked, []).append(kind == (sample.origin.get("instead") or asked))
        work.publish("made_truth", path)
        return {
            "images": sum(map(len, wanted.values())),
            "as_asked": {k: round(sum(v) / len(v), 3) for k, v in sorted(wanted.items())},
        }

    @staticmethod
    def _kinds(model: object, batch: Sequence[Sample]) -> list[str]:
        import numpy as np

        from tilth.images import resize
        from tilth.starter.diffusion.judge import SIDE, judge

        try:
            pixels = np.stack([resize(sample.pixels(), (SIDE, SIDE)) for sample in batch])
        except InputError as error:
            raise InputError(f"a generated image cannot be read: {error}") from error
        kinds, _, _ = judge(model, pixels)  # type: ignore[arg-type]
        return kinds
