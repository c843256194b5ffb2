"""What a judge says of an image, and the bundle as two judges: both stages, and Stage 1 alone.

Images come one at a time, as a service that is not busy sees them, so that the times are an image's own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from tilth.errors import ModelError
from tilth.images import Image
from tilth.pipeline.protocols.folder import Folder
from tilth.runtime.stages.cascade import Action, Case, Moderator, Verdict
from tilth.runtime.stages.stage1 import Screen

FULL, VISION = "full", "vision only"


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one judge says of one image.

    Args:
        flagged: Whether somebody should look; None where there was no answer.
        action: What it would do; `allow` where it does not flag.
        named: The categories that it finds.
        scores: By category; empty where it gives none.
        knows: All categories that it could have found; empty where it has none of the policy's.
        stage: That decided; 0 where there are no stages.
        text: The words that it read.
        ms: Wall-clock milliseconds.
        why: There was no answer.
    """

    flagged: bool | None
    action: str = ""
    named: frozenset[str] = frozenset()
    scores: Mapping[str, float] = field(default_factory=dict)
    knows: frozenset[str] = frozenset()
    stage: int = 0
    text: str = ""
    ms: float = 0.0
    why: str = ""


class Judge(Protocol):
    """Judges an image; one that judges in several ways says so under several names."""

    names: tuple[str, ...]

    def __call__(self, image: Image) -> dict[str, Said]:
        """Say it, by name."""
        ...


class Cascade:
    """A bundle, with both stages and with the first alone; Stage 1 looks once for both.

    Args:
        moderator: The bundle.
        name: Stands before the names of both; nothing does when empty.
    """

    def __init__(self, moderator: Moderator, name: str = "") -> None:
        self.moderator, self._alone = moderator, vision_of(moderator)
        self._full, self._vision = (f"{name} {each}".strip() for each in (FULL, VISION))
        self.names: tuple[str, ...] = (self._full, self._vision)
        self._knows = frozenset(moderator.policy.names) - {*moderator.policy.signposts}

    def __call__(self, image: Image) -> dict[str, Said]:
        """Judge an image in both ways."""
        try:
            [first] = self.moderator.see([image])
            full, alone = first, first
            if isinstance(first, Case):
                alone = self._alone.sort(first.screen, first.timings_ms["stage1"])
                [full] = self.moderator.judge([self.moderator.read(image, first)])
        except ModelError as error:
            return dict.fromkeys(self.names, Said(flagged=None, why=str(error)))
        return {self._full: self._told(full), self._vision: self._told(alone)}

    def _told(self, verdict: Verdict | Case) -> Said:
        assert isinstance(verdict, Verdict)  # `_alone` has no second stage that a case could be for
        if verdict.degraded:
            return Said(flagged=None, why=f"nobody judged its words: {verdict.degraded}")
        ms = verdict.timings_ms["total" if verdict.stage == 2 else "stage1"]
        return Said(
            flagged=verdict.flagged, action=verdict.action.value, named=named(verdict), scores=verdict.scores, knows=self._knows,
            stage=verdict.stage, text=verdict.text, ms=ms,
        )  # fmt: skip

    def words(self, image: Image) -> bool | None:
        """Tell whether an image holds words, by reading it; None without a reader."""
        reader = self.moderator.reader
        return None if reader is None else bool(reader(image))


def vision_of(moderator: Moderator) -> Moderator:
    """Return a bundle whose first stage decides alone."""
    return replace(moderator, stage2=None, reader=None)


def named(verdict: Verdict) -> frozenset[str]:
    """Return the categories that a verdict finds."""
    return frozenset(name for name, action in verdict.actions.items() if action is not Action.ALLOW)


class Seen:
    """What a bundle sees and reads in the images of a folder, once whatever policies they are then judged by.

    Args:
        moderator: Any of the bundles that share Stage 1.
        folder: Holds the images.
    """

    def __init__(self, moderator: Moderator, folder: Folder) -> None:
        self._moderator, self._folder = moderator, folder
        self._screens: dict[str, Screen] = {}
        self._texts: dict[str, str] = {}
        self.broken: dict[str, str] = {}  # images that could not be decoded, and why

    def judge(self, moderator: Moderator, files: Iterable[str]) -> dict[str, Verdict]:
        """Judge images by the policy of a bundle; those that could not be decoded, or whose words nobody judged, are left out."""
        verdicts: dict[str, Verdict] = {}
        for file in files:
            image: Image | None = None
            if file not in self._screens and file not in self.broken:
                image = self._see(file)
            if file in self.broken:
                continue
            first = moderator.sort(self._screens[file])
            if isinstance(first, Case):
                [first] = moderator.judge([replace(first, text=self._read(file, image))])
            if first.degraded:
                self.broken[file] = f"nobody judged its words: {first.degraded}"
                continue
            verdicts[file] = first
        return verdicts

    def _see(self, file: str) -> Image | None:
        image, why = self._folder.read(file)
        if image is None:
            self.broken[file] = why
        else:
            [self._screens[file]] = self._moderator.stage1([image])
        return image

    def _read(self, file: str, image: Image | None) -> str:
        if file not in self._texts:
            if image is None:
                image, _ = self._folder.read(file)
            reader = self._moderator.reader
            self._texts[file] = reader(image) if reader is not None and image is not None else ""
        return self._texts[file]
