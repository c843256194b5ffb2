"""The policy: which categories there are, how to ask for them, and what to do when one is found."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tilth.errors import InputError
from tilth.yaml_text import describe, load_yaml


class Category(BaseModel):
    """One thing to look for.

    `evidence` says where it shows: a `picture` category is a thing that boxes can be drawn around, a `text` category is
    decided by what the image's words say, and its boxes are around the words. `examples` are images that show it, or folders of
    them; mining asks with them beside the prompts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    definition: str
    severity: Literal["low", "medium", "high"] = "medium"
    evidence: Literal["picture", "text"] = "picture"
    prompts: tuple[str, ...] = ()
    counter_prompts: tuple[str, ...] = ()
    examples: tuple[Path, ...] = ()
    review_above: float = Field(default=0.3, ge=0, le=1)
    block_above: float = Field(default=0.8, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> "Category":
        if self.review_above > self.block_above:
            raise ValueError(f"review_above {self.review_above} must not exceed block_above {self.block_above}")
        if self.evidence == "picture" and not self.prompts:
            raise ValueError("a picture category needs at least one prompt")
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
        names = [category.name for category in self.categories]
        if doubles := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"categories named twice: {', '.join(sorted(doubles))}")
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
    def pictured(self) -> tuple[Category, ...]:
        """The categories that a detector can learn."""
        return tuple(category for category in self.categories if category.evidence == "picture")

    @cached_property
    def written(self) -> tuple[Category, ...]:
        """The categories that are decided by words."""
        return tuple(category for category in self.categories if category.evidence == "text")

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
