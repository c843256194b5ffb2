"""What the settings files of a bundle hold, and in what they may contradict each other."""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tilth.errors import InputError
from tilth.policy import Policy
from tilth.runtime.judges.guards import READ_POLICY, Form, slots
from tilth.runtime.judges.server import ServerSettings
from tilth.runtime.stages import template
from tilth.runtime.stages.stage1 import Prepare

CLEAR_BELOW = 0.1

BackEnd: TypeAlias = Literal["onnx", "transformers", "llama.cpp", "server"]
STAGE2: dict[BackEnd, tuple[str, ...]] = {  # the files of each, all or none
    "onnx": ("verdict.onnx", "verdict.json", "tokenizer.json"),
    "transformers": ("verdict.json",),
    "llama.cpp": ("verdict.gguf", "verdict.json", "tokenizer.json"),
    "server": ("verdict.json",),
}

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
        back_end: What runs the model.
        form: How it is asked: for the letter of a rule, or as a kind of guard.
        template_version: Of the prompt.
        labels: The verdicts, by the first of the label tokens.
        label_token_ids: Tokens of the letters that it answers with; a model off the shelf has one for every letter, and a server none.
        max_tokens: Longest prompt.
        padding: Side on which shorter prompts of a graph are filled.
        before: What a chat begins with.
        after: What comes between the prompt and the answer.
        whole_words: Whether the model was taught whole words, and knows none that its tokenizer cuts up.
        past_shape: Layers times two, heads and width of what a graph keeps of the rules; None for one that keeps nothing.
        model: The checkpoint that transformers opens; it is not in the bundle.
        digest: Of that checkpoint.
        device: Where transformers runs it.
        prompt: Of a guard, with its slots.
        words: Of Qwen3Guard: which of its categories stands for which of ours.
        server: Where else the model is, and how it is asked there.
    """

    back_end: BackEnd = "onnx"
    form: Form = "letters"
    template_version: int
    labels: tuple[str, ...] = Field(min_length=2)
    label_token_ids: tuple[int, ...] = ()
    max_tokens: int = Field(ge=16)
    padding: Literal["left", "right"] = "left"
    before: str = ""
    after: str = ""
    whole_words: bool = False
    past_shape: tuple[int, int, int] | None = None
    model: str = ""
    digest: str = ""
    device: str = "auto"
    prompt: str = ""
    words: dict[str, str] = {}
    server: ServerSettings | None = None

    @property
    def reads_definitions(self) -> bool:
        """Whether another policy needs no other model."""
        return self.template_version == template.DEFINED and self.form in READ_POLICY

    @property
    def most_labels(self) -> int:
        """How many verdicts it can tell apart."""
        known = self.form == "letters" and self.back_end != "server"
        return min(len(template.LETTERS), len(self.label_token_ids)) if known else len(template.LETTERS)

    def means(self, policy: Policy) -> dict[str, str]:
        """Return what each category means."""
        return {category.name: category.definition for category in policy.categories}

    def rules(self, policy: Policy) -> str:
        """Write what every prompt for a letter begins with."""
        defined = self.template_version == template.DEFINED
        return self.before + template.rules(self.labels, self.means(policy) if defined else None)

    def verdicts(self, policy: Policy) -> tuple[str, ...]:
        """Return the verdicts on a policy: a guard is asked about what is written alone, a letter is found for everything."""
        return verdicts(policy, self.form)


class Manifest(_Settings):
    """`bundle.json`; what else it holds is for people to read."""

    format: Literal[1]
    clear_below: float = Field(default=CLEAR_BELOW, ge=0, le=1)
    files: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]


S = TypeVar("S", bound=BaseModel)


def verdicts(policy: Policy, form: Form = "letters") -> tuple[str, ...]:
    """Return what a language model can say of a policy, asked in this form."""
    if form == "letters":
        return (template.SAFE, *(c.name for c in policy.categories if not c.is_signpost))
    return (template.SAFE, *(c.name for c in policy.written))


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
    said = verdict.labels if verdict else ()
    if verdict and verdict.template_version not in template.VERSIONS:
        known = " and ".join(map(str, template.VERSIONS))
        wrong.append(f"verdict.json: template {verdict.template_version}, this runtime writes {known}")
    if verdict and len(verdict.labels) > verdict.most_labels:
        told = f"{len(verdict.labels)} labels"
        if len(verdict.labels) > len(template.LETTERS):
            wrong.append(f"verdict.json: {told}, but a verdict is one of {len(template.LETTERS)} letters")
        else:
            wrong.append(f"verdict.json: {told} but {len(verdict.label_token_ids)} label_token_ids")
    if verdict and len({*verdict.label_token_ids}) < len(verdict.label_token_ids):
        wrong.append("verdict.json: two labels have one label_token_id, so no answer could tell them apart")
    if verdict:
        wrong += _of_back_end(verdict)
    if verdict and template.SAFE not in verdict.labels:
        wrong.append(f"verdict.json: labels lack {template.SAFE!r}")
    boxed = detector.labels if detector else ()
    for name, labels in (("classifier", classifier.labels), ("detector", boxed), ("verdict", said)):
        if strangers := sorted(set(labels) - set(policy.names) - {template.SAFE}):
            wrong.append(f"{name}.json: no category of policy {policy.policy}: {', '.join(strangers)}")
    decided = {*classifier.labels, *said}
    if orphans := [name for name in policy.names if name not in decided]:
        wrong.append(f"policy.yaml: no model scores {', '.join(orphans)}; classifier.json or verdict.json must list it")
    if wrong:
        raise InputError("\n".join(f"{folder}/{line}" for line in wrong))


def _of_back_end(verdict: VerdictSettings) -> list[str]:
    """Report what a back end lacks."""
    wrong = []
    if verdict.back_end == "server" and verdict.server is None:
        wrong.append("verdict.json: back end server, but no server is named")
    if verdict.back_end == "transformers" and not (verdict.model and verdict.digest):
        wrong.append("verdict.json: back end transformers, but no model and digest are named")
    if verdict.form != "letters" and verdict.back_end != "transformers":
        wrong.append(
            f"verdict.json: a guard ({verdict.form}) is asked by transformers alone, not by {verdict.back_end}"
        )
    if verdict.form != "letters" and not all(slot in verdict.prompt for slot in slots(verdict.form)):
        wrong.append(f"verdict.json: the prompt of {verdict.form} lacks a slot")
    return wrong
