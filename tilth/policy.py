"""The policy: which categories there are, how to ask for them, and what to do when one is found.

Names are those of the data: any printable text that can also name a file. Labels of other tools are read by `Policy.find`, which knows a
category by its name, by what else it is called, and by either in other letters' case or with other spaces.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tilth.errors import InputError
from tilth.yaml_text import describe, load_yaml

MAX_NAME = 64  # characters
FORBIDDEN = r'/\:*?"<>|'  # in names of files, on some system
SAFE = "safe"  # the verdict when nothing is found
SPACES = re.compile(r"[\s_-]+")


def fold(name: str) -> str:
    """Return what two spellings of a name share: case, spaces, underscores and hyphens do not count.

    >>> fold("White_cell ") == fold("white cell"), fold("knife") == fold("knives")
    (True, False)
    """
    return SPACES.sub(" ", unicodedata.normalize("NFC", name)).strip().casefold()


class Aim(BaseModel):
    """What a threshold is to reach on images like those that it was chosen on; one of the three, each a share of one.

    `recall` of the images that show the category, `precision` of those that are called so, at most `false_positives` of those that do not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recall: float | None = Field(default=None, gt=0, lt=1)
    precision: float | None = Field(default=None, gt=0, lt=1)
    false_positives: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> "Aim":
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("needs one of recall, precision and false_positives, as in {recall: 0.95}")
        return self

    @property
    def told(self) -> tuple[str, float]:
        """Which of them, and how much."""
        [(name, value)] = self.model_dump(exclude_none=True).items()
        return name, float(value)


class Category(BaseModel):
    """One thing to look for.

    `evidence` says where it shows: a `picture` category is a thing that boxes can be drawn around, a `text` category is
    decided by what the image's words say, and its boxes are around the words; a `sound` category
    is heard. `examples` are images that show it, or folders of
    them; mining asks with them beside the prompts. `also` are names that other people's labels have for it. `review_at` says what the score
    from which a person should look is to reach; calibration finds that score, and a bundle serves it in the place of `review_above`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    also: tuple[str, ...] = ()
    definition: str
    severity: Literal["low", "medium", "high"] = "medium"
    evidence: Literal["picture", "text", "sound"] = "picture"
    prompts: tuple[str, ...] = ()
    counter_prompts: tuple[str, ...] = ()
    examples: tuple[Path, ...] = ()
    review_above: float = Field(default=0.3, ge=0, le=1)
    review_at: Aim | None = None
    block_above: float = Field(default=0.8, ge=0, le=1)

    @property
    def is_signpost(self) -> bool:
        """Whether it is never a verdict, however sure: it tells Stage 2 where to read, as a board with writing does."""
        return self.severity == "low" and self.review_above >= 1

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        if fold(name) == SAFE:
            raise ValueError(
                f"{name!r} is what an image is called in which nothing was found; give the category another name"
            )
        if (
            not 0 < len(name) <= MAX_NAME
            or not name.isprintable()
            or name != name.strip()
            or set(name) & set(FORBIDDEN)
            or name.startswith(".")
            or name.endswith(".")
        ):
            raise ValueError(
                f"a category's name is 1 to {MAX_NAME} printable characters that can name a file: "
                f"no {' '.join(FORBIDDEN)}, no dot or space at its ends; got {name!r}"
            )
        return name

    @model_validator(mode="after")
    def _check(self) -> "Category":
        if self.review_above > self.block_above:
            raise ValueError(f"review_above {self.review_above} must not exceed block_above {self.block_above}")
        if self.evidence == "picture" and not self.prompts:
            raise ValueError("a picture category needs at least one prompt")
        if self.evidence != "picture" and self.review_at:
            raise ValueError("review_at is of what is pictured: words and sounds are judged without validation images")
        return self


class Policy(BaseModel):
    """A versioned list of categories.

    `hash_lists` names files of perceptual hashes; an image on one of them is never kept, shown or sent anywhere.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str
    version: int
    categories: tuple[Category, ...]
    hash_lists: tuple[Path, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "Policy":
        if not self.categories:
            raise ValueError("categories: needs at least one")
        owner: dict[str, str] = {}
        for category in self.categories:
            for name in {fold(each) for each in (category.name, *category.also)}:
                if name in owner:
                    raise ValueError(
                        f"{owner[name]!r} and {category.name!r} are both called {name!r}, case, spaces and hyphens aside; "
                        "a label of that name could be either"
                    )
                owner[name] = category.name
        return self

    @property
    def tag(self) -> str:
        """Name and version, as claims have them: `starter@1`."""
        return f"{self.policy}@{self.version}"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All category names, in the order of the file."""
        return tuple(category.name for category in self.categories)

    @cached_property
    def _called(self) -> dict[str, str]:
        return {fold(name): c.name for c in self.categories for name in (*c.also, c.name)}

    def find(self, name: str) -> str | None:
        """Return the category that a label of another tool means, None when it is none of ours.

        >>> cell = Category(name="WBC", also=("white cell",), definition="", prompts=("cell",))
        >>> blood = Policy(policy="blood", version=1, categories=(cell,))
        >>> blood.find("wbc"), blood.find("White_Cell"), blood.find("RBC")
        ('WBC', 'WBC', None)
        """
        return name if name in self.names else self._called.get(fold(name))

    @cached_property
    def pictured(self) -> tuple[Category, ...]:
        """The categories that a detector can learn."""
        return tuple(category for category in self.categories if category.evidence == "picture")

    @cached_property
    def written(self) -> tuple[Category, ...]:
        """The categories that are decided by words."""
        return tuple(category for category in self.categories if category.evidence == "text")

    @cached_property
    def heard(self) -> tuple[Category, ...]:
        """The categories that are decided by listening."""
        return tuple(category for category in self.categories if category.evidence == "sound")

    @cached_property
    def signposts(self) -> tuple[str, ...]:
        """Name the categories that only say where there are words to read."""
        return tuple(category.name for category in self.categories if category.is_signpost)

    def check_pictured(self, names: Iterable[str], setting: str) -> None:
        """Refuse names of things that cannot be pictured.

        Args:
            names: Names of categories.
            setting: What gives them, for the message.

        Raises:
            InputError: One is no category, or a category that is decided by words.
        """
        known = [category.name for category in self.pictured]
        if wrong := sorted(set(names) - set(known)):
            raise InputError(f"{setting}: no pictured category {', '.join(wrong)}; there are {', '.join(known)}")

    def with_categories(self, categories: Iterable[Category]) -> "Policy":
        """Return the policy with these categories instead; unlike `model_copy` it forgets what was worked out about the old ones."""
        told = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**told, "categories": tuple(categories)})

    def __getitem__(self, name: str) -> Category:
        """Return a category by name.

        Raises:
            KeyError: There is none.
        """
        return next(c for c in self.categories if c.name == name) if name in self.names else self._missing(name)

    def _missing(self, name: str) -> Category:
        raise KeyError(f"no category {name!r} in policy {self.policy}; known: {', '.join(self.names)}")


def load_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        InputError: Lists every mistake in the file, with its line.
    """
    document, lines = load_yaml(path)
    try:
        policy = Policy.model_validate(document)
    except ValidationError as error:
        raise InputError("\n".join(describe(error, path, lines))) from error
    here = path.parent  # paths are relative to the policy file
    categories = tuple(
        c.model_copy(update={"examples": tuple(here / each for each in c.examples)}) for c in policy.categories
    )
    return policy.model_copy(
        update={"hash_lists": tuple(here / each for each in policy.hash_lists), "categories": categories}
    )
