"""What the settings files of a bundle hold, and in what they may contradict each other."""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tilth.errors import InputError
from tilth.policy import Policy
from tilth.runtime.stages import template
from tilth.runtime.stages.stage1 import Prepare

CLEAR_BELOW = 0.1

_Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
_Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Pixels(_Settings):
    labels: tuple[str, ...] = Field(min_length=1)
    size_wh: tuple[Annotated[int, Field(ge=1, le=4096)], Annotated[int, Field(ge=1, le=4096)]]
    mean: tuple[_Number, _Number, _Number]
    std: tuple[_Positive, _Positive, _Positive]
    keep_aspect: bool = False

    @property
    def prepare(self) -> Prepare:
        return Prepare(size_wh=self.size_wh, mean=self.mean, std=self.std, keep_aspect=self.keep_aspect)


class _Fusion(_Settings):
    a: float = Field(ge=0, allow_inf_nan=False)
    d: float = Field(ge=0, allow_inf_nan=False)
    b: float = Field(allow_inf_nan=False)


class ClassifierSettings(_Pixels):
    """`classifier.json`."""

    calibration: dict[str, _Fusion] = {}


class DetectorSettings(_Pixels):
    """`detector.json`."""

    score_threshold: float = Field(gt=0, le=1)


class VerdictSettings(_Settings):
    """`verdict.json`.

    Args:
        template_version: Of the prompt.
        labels: The verdicts, by the first of the label tokens.
        label_token_ids: Tokens that the graph answers with; a model off the shelf has one for every letter.
        max_tokens: Longest prompt.
        padding: Side on which shorter prompts are filled.
        before: What a chat begins with.
        after: What comes between the prompt and the answer.
        whole_words: Whether the model was taught whole words, and knows none that its tokenizer cuts up.
        past_shape: Layers times two, heads and width of what the graph keeps of the rules; None for one that keeps nothing.
    """

    template_version: int
    labels: tuple[str, ...] = Field(min_length=2)
    label_token_ids: tuple[int, ...]
    max_tokens: int = Field(ge=16)
    padding: Literal["left", "right"]
    before: str = ""
    after: str = ""
    whole_words: bool = False
    past_shape: tuple[int, int, int] | None = None

    def rules(self, policy: Policy) -> str:
        """Write what every prompt begins with."""
        means = {category.name: category.definition for category in policy.categories}
        return self.before + template.rules(self.labels, means if self.template_version == template.DEFINED else None)


class Manifest(_Settings):
    """`bundle.json`; what else it holds is for people to read."""

    format: Literal[1]
    clear_below: float = Field(default=CLEAR_BELOW, ge=0, le=1)
    files: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]


S = TypeVar("S", bound=BaseModel)


def write_policy(folder: Path, policy: Policy) -> None:
    """Write the policy that a bundle serves; a bundle has no hash lists."""
    told = policy.model_dump(mode="json", exclude={"hash_lists"}, exclude_none=True)
    text = yaml.safe_dump(told, sort_keys=False, allow_unicode=True)
    (folder / "policy.yaml").write_text(text, encoding="utf-8")


def read_settings(path: Path, kind: type[S]) -> S:
    """Read a settings file.

    Raises:
        InputError: It does not hold what it should.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path}: {place}: {first['msg']}") from error


def check_agreement(
    folder: Path,
    policy: Policy,
    classifier: ClassifierSettings,
    detector: DetectorSettings | None,
    verdict: VerdictSettings | None,
) -> None:
    """Report everything in which the files of a bundle contradict each other."""
    wrong = []
    verdicts = verdict.labels if verdict else ()
    if verdict and verdict.template_version not in template.VERSIONS:
        known = " and ".join(map(str, template.VERSIONS))
        wrong.append(f"verdict.json: template {verdict.template_version}, this runtime writes {known}")
    if verdict and len(verdict.labels) > len(verdict.label_token_ids):
        wrong.append(f"verdict.json: {len(verdict.labels)} labels but {len(verdict.label_token_ids)} label_token_ids")
    if verdict and len(verdict.labels) > len(template.LETTERS):
        wrong.append(
            f"verdict.json: {len(verdict.labels)} labels, but a verdict is one of {len(template.LETTERS)} letters"
        )
    if verdict and len({*verdict.label_token_ids}) < len(verdict.label_token_ids):
        wrong.append("verdict.json: two labels have one label_token_id, so no answer could tell them apart")
    if verdict and template.SAFE not in verdict.labels:
        wrong.append(f"verdict.json: labels lack {template.SAFE!r}")
    boxed = detector.labels if detector else ()
    for name, labels in (("classifier", classifier.labels), ("detector", boxed), ("verdict", verdicts)):
        if strangers := sorted(set(labels) - set(policy.names) - {template.SAFE}):
            wrong.append(f"{name}.json: no category of policy {policy.policy}: {', '.join(strangers)}")
    decided = {*classifier.labels, *verdicts}
    if orphans := [name for name in policy.names if name not in decided]:
        wrong.append(f"policy.yaml: no model scores {', '.join(orphans)}; classifier.json or verdict.json must list it")
    if wrong:
        raise InputError("\n".join(f"{folder}/{line}" for line in wrong))
