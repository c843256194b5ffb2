"""Tell guard models by their chat templates, and write down the prompt that such a template makes, with slots for words and policy."""

import json
from pathlib import Path
from typing import Any

from tilth.errors import ModelError
from tilth.runtime.judges.guards import POLICY, QUESTION, Form, slots

LISTED = (
    "<BEGIN UNSAFE CONTENT CATEGORIES>",
    "<END UNSAFE CONTENT CATEGORIES>",
)  # between them Llama Guard has its policy


def form_of(folder: Path) -> Form:
    """Return how a model is asked: as a guard where its chat template is that of one, else by letters."""
    template = _template(folder)
    if LISTED[0] in template:
        return "llama_guard"
    if "guideline" in template and "<start_of_turn>" in template:
        return "shieldgemma"
    if "Safety:" in template and "Categories:" in template:
        return "qwen3guard"
    return "letters"


def _template(folder: Path) -> str:
    """Return a chat template as it is written, in either of the places where it may be; empty where there is none."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    try:
        told = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template", "")
    except (OSError, ValueError):
        return ""
    return told if isinstance(told, str) else ""


def guard_prompt(folder: Path, form: Form) -> str:
    """Write the prompt of a guard as its own chat template makes it, with `QUESTION` where the words come and `POLICY` for the policy.

    Raises:
        ModelError: The template has no place for one of them.
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    guideline = {"guideline": POLICY} if form == "shieldgemma" else {}
    text = ""
    for content in (
        QUESTION,
        [{"type": "text", "text": QUESTION}],
    ):  # some templates want parts, and write others down as they are
        turns = [{"role": "user", "content": content}]
        try:
            text = str(
                tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=form != "shieldgemma", **guideline
                )
            )
        except Exception:  # noqa: BLE001  # templates are programs, and refuse in their own ways what they do not expect
            continue
        if text.count(QUESTION) == 1 and "{'type'" not in text:
            break
    begins, ends = (text.find(mark) for mark in LISTED)
    if form == "llama_guard" and 0 <= begins < ends:
        text = f"{text[: begins + len(LISTED[0])]}\n{POLICY}\n{text[ends:]}"
    if any(text.count(slot) != 1 for slot in slots(form)):
        raise ModelError(
            f"{folder}: its chat template is that of {form}, but has no place for the words or the policy; choose another model"
        )
    return text.removeprefix(tokenizer.bos_token or "\ufffc")  # which the tokenizer puts there anyway
