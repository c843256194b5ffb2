"""The options `--keep-doubts`, `--keep-most` and `--policy` of the commands that judge images with a bundle."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilth.errors import InputError

if TYPE_CHECKING:
    from tilth.runtime.serving.doubts import Doubts
    from tilth.runtime.stages.cascade import Moderator

KeepDoubts = Annotated[
    Path | None,
    typer.Option(help="Keep the images that the bundle is unsure about, with their scores, in this folder."),
]
KeepMost = Annotated[int, typer.Option(help="Images that are kept at most: the most doubtful.")]
ListPolicy = Annotated[
    Path | None, typer.Option("--policy", help="Policy file, whose hash_lists name what is never kept.")
]


def keeping(folder: Path | None, most: int, policy: Path | None) -> "Callable[[Moderator], Doubts] | None":
    """Return what makes the keeper of a moderator's doubts; None when none are kept. Hash lists are read at once.

    Raises:
        InputError: There is no policy: a bundle has no hash lists, and an image on one must not be kept. Or `most` is none.
    """
    if folder is None:
        if policy is not None:
            raise InputError("--policy says what is never kept, and nothing is kept without --keep-doubts FOLDER")
        return None
    if policy is None:
        raise InputError(
            f"--keep-doubts {folder}: give --policy, too: its hash_lists say what is never kept, and a bundle has none"
        )
    if most < 1:
        raise InputError(f"--keep-most must be at least 1, got {most}")
    from tilth.mining.copies.listed import guard_of
    from tilth.policy import load_policy

    rules = load_policy(policy)
    guard = guard_of(rules)

    def make(moderator: "Moderator") -> "Doubts":
        from tilth.runtime.serving.doubts import Doubts

        if (served := moderator.policy.policy) != rules.policy:
            raise InputError(f"{policy}: it is the policy {rules.policy!r}, and the bundle serves {served!r}")
        return Doubts(moderator, folder, most=most, guard=guard)

    return make
