"""Which language model a bundle judges words with, how it is asked, and what a bundle holds of it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from tilth import models
from tilth.engine.steps import group
from tilth.errors import InputError, ModelError
from tilth.pipeline.steps.guards import form_of, guard_prompt
from tilth.policy import Policy
from tilth.runtime.bundles.settings import BackEnd, verdicts
from tilth.runtime.judges.guards import Form, check_words
from tilth.runtime.judges.rows import strange_words
from tilth.runtime.judges.server import ServerSettings
from tilth.runtime.stages.template import DEFINED, LETTERS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TOKENS = 4096  # of a prompt, where the bundle does not hold the model as a graph


@group
class Asking:
    """Where the language model runs and how it is asked.

    Args:
        back_end: `onnx` exports it into the bundle, for models of up to a billion parameters; `transformers` runs it from where it lies;
            `llama.cpp` takes a GGUF file into the bundle; `server` asks one that speaks OpenAI's protocol.
        device: Where transformers runs it; `auto` for the best there is.
        words: Of Qwen3Guard: category -> which of its own stands for it.
        url: Of a server: what its API begins with, such as `http://llm:8000/v1`.
        api: Of a server: `chat`, or `completions` for a model without turns.
        token_env: Of a server: the environment variable that holds its token when the bundle is served.
        timeout_s: Of a server: seconds until it counts as having judged nothing.
        extra: Of a server: what it is also told, such as `{chat_template_kwargs: {enable_thinking: false}}`.
    """

    back_end: BackEnd = "onnx"
    device: str = "auto"
    words: dict[str, str] = field(default_factory=dict)
    url: str = ""
    api: Literal["chat", "completions"] = "chat"
    token_env: str = ""
    timeout_s: float = 5.0
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that a server, and no other back end, has an address."""
        if (self.back_end == "server") != bool(self.url):
            raise ValueError(
                f"url is the address of back_end: server, and of it alone; got {self.url!r} for {self.back_end}"
            )
        if self.url:
            self.server("a model")

    def server(self, model: str) -> ServerSettings:
        """Return how a server is asked for a model."""
        told = {name: getattr(self, name) for name in ("url", "api", "token_env", "timeout_s", "extra")}
        try:
            return ServerSettings(model=model, **told)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(
                f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
            ) from error


def source_of(name: str, asking: Asking) -> str:
    """Return how a bundle names its language model."""
    return f"server:{name}" if asking.back_end == "server" else models.source(name)


def write_language_model(name: str, asking: Asking, policy: Policy, folder: Path) -> None:
    """Write what a bundle holds of a language model: `verdict.json`, and by its back end a graph or a GGUF file with the tokenizer.

    Args:
        name: Of the model.
        asking: Where it runs.
        policy: That it is to judge by.
        folder: The bundle.

    Raises:
        ModelError: It is none that this back end runs, or its tokenizer lacks the letters.
    """
    from tilth.train.artifacts.export import export_language_model, verdict_settings

    if asking.back_end == "server":
        told: dict[str, Any] = {"template_version": DEFINED, "labels": verdicts(policy), "max_tokens": MAX_TOKENS}
        _write(folder, asking, {**told, "server": asking.server(name).model_dump()})
        return
    place = models.locate(name)
    form = form_of(place)
    if form == "letters":
        told = verdict_settings(place, verdicts(policy), DEFINED)
    else:
        told = {
            "form": form, "template_version": DEFINED, "labels": verdicts(policy, form), "max_tokens": MAX_TOKENS,
            "prompt": guard_prompt(place, form), "words": asking.words,
        }  # fmt: skip
    if asking.back_end == "onnx":
        export_language_model(place, folder, told)
        return
    if not (place / "verdict.json").exists():
        told["max_tokens"] = MAX_TOKENS
    if asking.back_end == "transformers":
        here = str(place.resolve()) if models.spec(name).place == "folder" else name
        _write(folder, asking, {**told, "model": here, "digest": models.digest(name), "device": asking.device})
        return
    shutil.copy(_gguf(name, place), folder / "verdict.gguf")
    shutil.copy(place / "tokenizer.json", folder)
    _write(folder, asking, told)


def _write(folder: Path, asking: Asking, told: Mapping[str, Any]) -> None:
    (folder / "verdict.json").write_text(
        json.dumps({"back_end": asking.back_end, **told}, indent=2) + "\n", encoding="utf-8"
    )


def _gguf(name: str, place: Path) -> Path:
    files = sorted(place.glob("*.gguf"))
    if len(files) != 1:
        told = ", ".join(path.name for path in files) or "none"
        raise ModelError(
            f"{name}: back_end: llama.cpp takes a folder with one .gguf and its tokenizer.json; there are here: {told}"
        )
    return files[0]


def check_language_model(name: str, policy: Policy, asking: Asking | None = None) -> None:
    """Refuse a language model that cannot judge by a policy, before anything is exported.

    Args:
        name: Of the model; empty for none.
        policy: Whose categories it is to judge; where words decide none, no model is packaged.
        asking: Where it runs.

    Raises:
        InputError: It does not know the categories, there are too many, or there is none although words decide some.
    """
    written, asking = [category.name for category in policy.written], asking or Asking()
    if not written:
        return
    another = (
        "set language_model to a folder or hub id (owner/name@commit) of an instruction-tuned language model, which answers by letter, "
        "or leave these categories out of the policy"
    )
    if not name:
        raise InputError(
            f"words decide {', '.join(written)}, and without a language model nobody reads them; {another}"
        )
    here = models.find(name) if asking.back_end != "server" and models.is_here(name) else None
    form: Form = form_of(here) if here else "letters"
    said = verdicts(policy, form)
    if len(said) > len(LETTERS):
        raise InputError(
            f"policy {policy.policy} has {len(said) - 1} categories to judge; a verdict is one letter, so Stage 2 can tell at "
            f"most {len(LETTERS) - 1} apart: divide the policy, or leave out the categories that words decide ({', '.join(written[:5])}"
            f"{', …' if len(written) > 5 else ''})"
        )
    if form != "letters" and asking.back_end != "transformers":
        raise InputError(
            f"{name} is a guard ({form}), which transformers alone asks in its own words; set asking: {{back_end: transformers}}"
        )
    if form == "qwen3guard":
        check_words(written, asking.words)
    if here is None or not (here / "verdict.json").exists():
        return  # it answers for whatever it is told
    own = json.loads((here / "verdict.json").read_text())
    if own["template_version"] == DEFINED:  # it reads what the policy says
        if own.get("whole_words") and (lacks := strange_words(_tokenizer(here), policy)):
            raise InputError(
                f"{name} does not know these words of the policy: {', '.join(lacks)}; say it in its words (docs/policy.md, Write "
                f"clauses), or {another}"
            )
        return
    taught = own["labels"]
    if lacks := [category for category in written if category not in taught]:
        raise InputError(f"{name} was not taught {', '.join(lacks)} but {', '.join(taught)}; {another}")
    if strange := [label for label in taught if label not in said]:
        raise InputError(f"{name} also answers with {', '.join(strange)}, which the policy does not have; {another}")


def _tokenizer(place: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(place / "tokenizer.json"))
