"""Open the language model of a bundle on the back end that its `verdict.json` names."""

from pathlib import Path
from typing import TYPE_CHECKING

from tilth import models
from tilth.errors import InputError, ModelError, TilthError
from tilth.extras import optional
from tilth.policy import Policy
from tilth.runtime.bundles.settings import VerdictSettings
from tilth.runtime.judges.causal import CausalModel
from tilth.runtime.judges.graph import INPUTS, KEEPS, OUTPUTS, GraphModel
from tilth.runtime.judges.guards import guard
from tilth.runtime.judges.llamacpp import LlamaCppModel
from tilth.runtime.judges.rows import Model, Rows, by_letter, encode
from tilth.runtime.judges.server import Server
from tilth.runtime.stages.graphs import open_graph, usable_cores
from tilth.runtime.stages.stage1 import Screen
from tilth.runtime.stages.stage2 import Stage2
from tilth.runtime.stages.template import clean

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def open_stage2(folder: Path, policy: Policy, told: VerdictSettings, threads: int) -> Stage2:
    """Get the language model of a bundle ready.

    Args:
        folder: The bundle.
        policy: That it judges by.
        told: Its settings, in which nothing contradicts the policy.
        threads: To compute with; 0 for as many as this process may use.

    Raises:
        InputError: A variable with a server's token is not set, or a guard has no word for a category.
        ModelError: The model is not the one that the bundle was made with, or cannot be asked.
    """
    if told.back_end == "server":
        assert told.server is not None  # `check_agreement` has seen to it
        judge = Server(
            told.server, told.rules(policy), len(told.labels), max_tokens=told.max_tokens, token=told.server.token()
        )
        return Stage2(judge=judge, labels=told.labels)
    try:
        if told.form != "letters":
            return Stage2(judge=_guard(folder, policy, told), labels=told.labels, write=_words)
        return Stage2(judge=_letters(folder, policy, told, threads), labels=told.labels)
    except InputError:
        raise
    except TilthError as error:
        raise ModelError(f"{folder}/{error}") from error
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"{folder}: the language model ({told.back_end}) cannot be asked: {first}") from error


def _words(_: Screen, text: str) -> str:
    """Write the case of a guard: the words alone, as it judges what is said."""
    return clean(text)


def _letters(folder: Path, policy: Policy, told: VerdictSettings, threads: int) -> Rows:
    tokenizer = _tokenizer(_checkpoint(told) if told.back_end == "transformers" else folder)
    if absent := [str(each) for each in told.label_token_ids if tokenizer.id_to_token(each) is None]:
        raise ModelError(
            f"tokenizer.json: lacks the label tokens {', '.join(absent)} of verdict.json; package it again"
        )
    begins = encode(tokenizer, told.rules(policy), special=True, begins=True)
    ends = tuple(encode(tokenizer, told.after, special=True)) if told.after else ()
    return Rows(
        model=_model(folder, told, begins, tokenizer.get_vocab_size(), threads), tokenizer=tokenizer, begins=begins, ends=(ends,),
        max_tokens=told.max_tokens, read=by_letter(len(told.labels)),
    )  # fmt: skip


def _model(folder: Path, told: VerdictSettings, begins: list[int], words: int, threads: int) -> Model:
    if told.back_end == "transformers":
        return CausalModel(_checkpoint(told), begins, [(0, told.label_token_ids)], told.device)
    if told.back_end == "llama.cpp":
        cores = threads or usable_cores()
        return LlamaCppModel(
            folder / "verdict.gguf",
            begins,
            told.label_token_ids,
            words=words,
            max_tokens=told.max_tokens,
            threads=cores,
        )
    inputs, outputs = INPUTS, OUTPUTS
    if told.past_shape is not None:
        inputs, outputs = INPUTS | KEEPS[0], OUTPUTS | KEEPS[1]
    graph = open_graph(folder / "verdict.onnx", inputs, outputs, threads=threads)
    return GraphModel(graph, begins, told.past_shape, told.padding)


def _guard(folder: Path, policy: Policy, told: VerdictSettings) -> Rows:
    place = _checkpoint(told)
    tokenizer = _tokenizer(place)
    asked = guard(
        told.form, told.prompt, told.labels, means=told.means(policy), words=told.words, tokenizer=tokenizer
    )  # fmt: skip
    return Rows(
        model=CausalModel(place, asked.begins, asked.places, told.device), tokenizer=tokenizer, begins=asked.begins,
        ends=asked.ends, max_tokens=told.max_tokens, read=asked.read,
    )  # fmt: skip


def _checkpoint(told: VerdictSettings) -> Path:
    """Return the folder of a checkpoint, which must be the one that the bundle was made with."""
    place = models.locate(told.model)
    if (found := models.digest(told.model)) != told.digest:
        raise ModelError(
            f"verdict.json: {told.model} is {found} here, the bundle was made with {told.digest}; package it again"
        )
    return place


def _tokenizer(folder: Path) -> "Tokenizer":
    with optional():
        from tokenizers import Tokenizer
    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # which is what tokenizers raises
        raise ModelError(f"tokenizer.json: not a tokenizer: {str(error)[:200]}") from error
