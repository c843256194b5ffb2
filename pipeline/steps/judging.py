"""The step `judge`: a language model reads every text by the policy and says which category it is, without training."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import ClassVar

from tilth import models
from tilth.claims import Claim, Json
from tilth.data.where import both, open_to_models
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError, Unavailable
from tilth.pipeline.steps.language import Asking, check_language_model, source_of, write_language_model
from tilth.policy import SAFE, Policy
from tilth.samples import TEXT, Result, Sample

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
            found = ask([nothing] * len(samples), [sample.text() for sample in samples])
            results = []
            for said in found:
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


@step
class Judge:
    """Let a language model label the texts by the policy's definitions; no training, one forward pass a text.

    What it says of each category is in the column `<step>.scores`, how unsure it is in `<step>.doubt`, in [0, 1]. Texts that people have
    decided are left alone; so are those of the test split.

    Args:
        model: A language model, a guard, or what a server calls it: whatever `package` takes as `language_model`.
        asking: Where it runs, as of `package`.
        min_score: Least probability of a category that is claimed, in (0, 1].
    """

    media: ClassVar[tuple[str, ...]] = (TEXT,)

    model: str = "starter:verdict"
    asking: Asking = field(default_factory=lambda: Asking(back_end="transformers"))
    min_score: float = 0.5

    def __post_init__(self) -> None:
        """Check the threshold."""
        if not 0 < self.min_score <= 1:
            raise ValueError(f"min_score must lie in (0, 1], got {self.min_score}")

    def models(self) -> tuple[str, ...]:
        """The language model, where it is here."""
        return () if self.asking.back_end == "server" else (self.model,)

    def run(self, work: Work) -> Facts:
        """Judge what nobody has decided.

        Raises:
            InputError: Words decide nothing in the policy, or the model cannot judge by it.
        """
        written = [category.name for category in work.policy.written]
        if not written:
            raise InputError(f"policy {work.policy.policy}: words decide none of its categories (evidence: text)")
        if self.asking.back_end != "server":
            models.locate(self.model)
        check_language_model(self.model, work.policy, self.asking)
        # what a picture shows no text can
        policy = work.policy.with_categories(work.policy.written)
        reads = Reads(name=work.name, model=self.model, asking=self.asking, policy=policy, min_score=self.min_score)
        counts = work.map(reads, both("split != 'test'", open_to_models(written)))
        told = {str(name): 0 for name in written}
        for sample in work.dataset.samples(f"`{work.name}.doubt` is not null", images=False):
            for name in sample.truth.categories & set(told):
                told[name] += 1
        return {**counts, "shown": told}
