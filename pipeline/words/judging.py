"""A language model reads texts by the policy: `judge` takes what it says as labels, `evaluate.text` compares it with what people said."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tilth import models
from tilth.claims import Claim, Json
from tilth.data.where import both, one_of, open_to_models, quoted
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError, Unavailable
from tilth.pipeline.steps.language import Asking, check_language_model, source_of, write_language_model
from tilth.policy import SAFE, Policy
from tilth.samples import TEXT, Result, Sample
from tilth.texts import uncovered
from tilth.train.judge.telling import Beside, tell

if TYPE_CHECKING:
    from tilth.runtime.stages.stage2 import Unjudged

AWAY = ("timeout", "unreachable", "resting")  # it is the server, and no text


@step
class Reads:
    """Ask a language model about texts.

    Args:
        name: Of the step, before the columns.
        model: The language model.
        asking: Where it runs.
        policy: That it judges by.
        min_score: Least probability of a category that is claimed.
        batch_size: Texts per call.
    """

    media: ClassVar[tuple[str, ...]] = (TEXT,)

    name: str
    model: str
    asking: Asking
    policy: Policy
    min_score: float
    batch_size: int = 64

    def models(self) -> tuple[str, ...]:
        """The language model; one that a server has is known by its name alone."""
        return () if self.asking.back_end == "server" else (self.model,)

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Open the model with the policy before it, and return the function that asks it."""
        from tilth.runtime.bundles.language import open_stage2
        from tilth.runtime.bundles.settings import VerdictSettings, read_settings
        from tilth.runtime.stages.stage1 import Screen
        from tilth.runtime.stages.stage2 import Unjudged

        with tempfile.TemporaryDirectory(prefix="judge-") as folder:
            write_language_model(self.model, self.asking, self.policy, Path(folder))
            settings = read_settings(Path(folder) / "verdict.json", VerdictSettings)
            ask = open_stage2(Path(folder), self.policy, settings, 0)
        source, nothing = source_of(self.model, self.asking), Screen(scores={})
        asked = tuple(category.name for category in self.policy.written)

        def judge(samples: Sequence[Sample]) -> list[Result]:
            texts = [sample.text() for sample in samples]
            read = [uncovered(text) for text in texts]
            twice = [n for n, text in enumerate(texts) if read[n] != " ".join(text.casefold().split())]
            found = ask([nothing] * (len(texts) + len(twice)), [*texts, *(read[n] for n in twice)])
            for n, again in zip(twice, found[len(texts) :], strict=True):
                found[n] = _worse(found[n], again)
            results = []
            for said in found[: len(texts)]:
                if isinstance(said, Unjudged) and said.why in AWAY:
                    raise Unavailable(f"{self.name}: the server of {self.model} is not there ({said.why}); run again")
                if isinstance(said, Unjudged):
                    raise InputError(f"nobody judged it: {said.why}")
                scores = {name: round(said[name], 6) for name in asked if name in said}
                columns: dict[str, Json] = {
                    f"{self.name}.scores": dict(scores),
                    f"{self.name}.doubt": round(max(0.0, 1 - max(said.values())), 6),
                }
                results.append(Result(claims=self._claims(scores, said[SAFE], source, asked), columns=columns))
            return results

        return judge

    def _claims(self, scores: dict[str, float], safe: float, source: str, asked: tuple[str, ...]) -> tuple[Claim, ...]:
        found = [name for name, score in scores.items() if score >= self.min_score]
        if not found:
            return (Claim(says="empty", score=min(1.0, safe), source=source, asked=asked, policy=self.policy.tag),)
        return tuple(
            Claim(category=name, score=min(1.0, scores[name]), source=source, asked=asked, policy=self.policy.tag)
            for name in found
        )


def _worse(a: "dict[str, float] | Unjudged", b: "dict[str, float] | Unjudged") -> "dict[str, float] | Unjudged":
    """Return what is worse of two readings of a text; if nobody judged one of them, nobody judged the text."""
    if isinstance(a, dict) and isinstance(b, dict):
        return {name: (min if name == SAFE else max)(chance, b[name]) for name, chance in a.items()}
    return b if isinstance(a, dict) else a


@step
class Asked:
    """A language model that is asked about texts.

    Args:
        model: A language model, a guard, or what a server calls it: whatever `package` takes as `language_model`.
        trained: A `train.language` before this step, whose model judges instead.
        asking: Where it runs, as of `package`.
        min_score: Least probability of a category that counts as said, in (0, 1].
    """

    media: ClassVar[tuple[str, ...]] = (TEXT,)
    refers: ClassVar[tuple[str, ...]] = ("trained",)

    model: str = "starter:verdict"
    trained: str = ""
    asking: Asking = field(default_factory=lambda: Asking(back_end="transformers"))
    min_score: float = 0.5

    def __post_init__(self) -> None:
        """Check the threshold."""
        if not 0 < self.min_score <= 1:
            raise ValueError(f"min_score must lie in (0, 1], got {self.min_score}")

    def models(self) -> tuple[str, ...]:
        """The language model, where it is here."""
        return () if self.asking.back_end == "server" or self.trained else (self.model,)

    def reads(self, work: Work) -> Reads:
        """Return the mapper that asks it.

        Raises:
            InputError: Words decide nothing in the policy, or the model cannot judge by it.
        """
        if not work.policy.written:
            raise InputError(f"policy {work.policy.policy}: words decide none of its categories (evidence: text)")
        model = str(work.artifact(self.trained)) if self.trained else self.model
        if self.asking.back_end != "server":
            models.locate(model)
        check_language_model(model, work.policy, self.asking)
        # what a picture shows no text can
        policy = work.policy.with_categories(work.policy.written)
        return Reads(name=work.name, model=model, asking=self.asking, policy=policy, min_score=self.min_score)


@step
class Judge(Asked):
    """Let a language model label the texts by the policy's definitions; no training, one forward pass a text.

    A text in which letters seem to be disguised is read as it is and as it is meant, which counts as the worse of the two.

    What it says of each category is in the column `<step>.scores`, how unsure it is in `<step>.doubt`, in [0, 1]. Texts that people have
    decided are left alone; so are those of the test split.
    """

    def run(self, work: Work) -> Facts:
        """Judge what nobody has decided.

        Raises:
            InputError: Words decide nothing in the policy, or the model cannot judge by it.
        """
        written = [category.name for category in work.policy.written]
        counts = work.map(self.reads(work), both("split != 'test'", open_to_models(written)))
        told = {str(name): 0 for name in written}
        for sample in work.dataset.samples(f"`{work.name}.doubt` is not null", images=False):
            for name in sample.truth.categories & set(told):
                told[name] += 1
        return {**counts, "shown": told}


@step
class EvaluateText(Asked):
    """Measure a language model on texts that people labelled, with intervals: recall at false-positive rates, F1, calibration.

    What it says is not kept in the dataset. Each text's scores lie beside what people said in `<step>.texts`, a line a text.

    Args:
        split: Of the dataset.
        slice_by: Columns by whose values it is measured again.
    """

    split: str = "test"
    slice_by: tuple[str, ...] = ("text.language",)

    def run(self, work: Work) -> Facts:
        """Ask about every text of the split, and measure.

        Raises:
            InputError: No text of the split was labelled by people, or the model cannot judge by the policy.
        """
        reads = self.reads(work)
        names = tuple(category.name for category in work.policy.written)
        where = both(f"split = {quoted(self.split)}", one_of("state", ("reviewed", "confirmed_empty")))
        total = work.dataset.count(where)
        if not total:
            raise InputError(
                f"{work.name}: people labelled no text of the split {self.split!r}; import some with split={self.split}"
            )
        ask, beside = reads.load(), Beside(names=names, slice_by=self.slice_by)
        work.folder.mkdir(parents=True, exist_ok=True)
        path = work.folder / "predictions.jsonl"
        with (
            path.open("w", encoding="utf-8") as stream,
            work.events.progress(work.name, total, unit="texts") as advance,
        ):
            for some in work.dataset.scan(where, batch_rows=reads.batch_size):
                for sample, result in zip(some, ask(some), strict=True):
                    told = result.columns[f"{work.name}.scores"]
                    assert isinstance(told, Mapping)
                    beside.note(sample, told)
                    shown = sorted(sample.truth.categories)
                    stream.write(json.dumps({"id": sample.id, "scores": told, "shows": shown}) + "\n")
                advance(len(some))
        work.publish(f"{work.name}.texts", path)
        return tell(work, beside, self.min_score, sealed=f"texts of {self.split}", unit="texts")
