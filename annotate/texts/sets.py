"""Where public sets of labelled texts have their texts and labels; the sets themselves the user brings, under their own licences."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """How the tables of a set are read.

    Args:
        text: Columns of the text; of several, joined by an empty line, as of a prompt and its answer.
        label: Column with the names of what a text shows; empty when there is none.
        split_at: What parts the names in it, where they are one text.
        flags: Columns of their own for what a text shows, each with 1 or 0.
        inside: Column that holds such flags as a mapping.
        safe: Names in the label's column that say that nothing is wrong.
        rename: Names of flags to what they stand for.
        language: Column that says in which language a text is.
        parent: Column with the id of the sample whose words a text is.
        paper: Where the set is described.
    """

    text: tuple[str, ...]
    label: str = ""
    split_at: str = ""
    flags: tuple[str, ...] = ()
    inside: str = ""
    safe: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    language: str = ""
    parent: str = ""
    paper: str = ""


SETS = {
    "toxic-chat": TextSet(
        text=("user_input",), flags=("toxicity", "jailbreaking"), paper="https://arxiv.org/abs/2310.17389"
    ),
    "openai-moderation": TextSet(
        text=("prompt",),
        flags=("S", "H", "V", "HR", "SH", "S3", "H2", "V2"),
        rename={
            "S": "sexual",
            "H": "hate",
            "V": "violence",
            "HR": "harassment",
            "SH": "self-harm",
            "S3": "sexual/minors",
            "H2": "hate/threatening",
            "V2": "violence/graphic",
        },
        paper="https://arxiv.org/abs/2208.03274",
    ),
    "aegis2": TextSet(
        text=("prompt",), label="violated_categories", split_at=",", paper="https://arxiv.org/abs/2501.09004"
    ),
    "beavertails": TextSet(text=("prompt", "response"), inside="category", paper="https://arxiv.org/abs/2307.04657"),
    "xstest": TextSet(text=("prompt",), label="label", safe=("safe",), paper="https://arxiv.org/abs/2308.01263"),
    "harmbench": TextSet(text=("Behavior",), label="SemanticCategory", paper="https://arxiv.org/abs/2402.04249"),
}

COLUMNS = ("text", "prompt", "content", "comment_text", "comment", "message", "sentence", "body", "user_input", "query")
LABELS = ("labels", "label", "categories", "category", "class")
