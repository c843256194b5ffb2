"""The champion: a folder that stands for the bundle in use, whatever that is tonight.

    champion/bundle -> bundles/0002-3f9a…   the one in use; another is put in its place by one rename
    champion/bundles/0001-…, 0002-…         those that were in use, whole
    champion/promotions.jsonl               which took whose place, when and why

Everything that takes a bundle takes a champion: `tilth serve champion` goes on with the next one without a pause.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from tilth.data.files import alone, folder_beside, write_beside
from tilth.errors import InputError
from tilth.runtime.bundles.bundle import BUNDLES, IN_USE, digest_of, verify

LOG = "promotions.jsonl"
KEPT = 10  # bundles, the one in use among them


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """One change of the bundle in use.

    Args:
        time: When.
        bundle: Which is in use since; a folder of `bundles`.
        instead_of: Which was until then; empty for none.
        why: In a sentence.
        back: It had been in use before, and came back.
    """

    time: str
    bundle: str
    instead_of: str
    why: str = ""
    back: bool = False


class Champion:
    """The bundle in use, and those that were.

    Args:
        folder: Made with the first promotion.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def bundle(self) -> Path | None:
        """The bundle in use; None before the first."""
        link = self.folder / IN_USE
        return link.parent / os.readlink(link) if link.is_symlink() else None

    def history(self) -> list[Promotion]:
        """Return all changes, oldest first."""
        path = self.folder / LOG
        return [Promotion(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def promote(self, bundle: Path, *, time: str, why: str = "", kept: int = KEPT) -> Promotion:
        """Put a bundle into use, by one rename; one that is in use already stays.

        Args:
            bundle: Its folder; it is copied, so a run may be deleted.
            time: Now.
            why: In a sentence.
            kept: Bundles that are kept, the newest; older ones are deleted.

        Raises:
            InputError: It is no bundle.
            ModelError: A file in it was changed since it was sealed.
            Unavailable: Another change is being made.
        """
        verify(bundle)
        digest = digest_of(bundle)
        with alone(self.folder):
            there = sorted((self.folder / BUNDLES).glob("[0-9]*-*[0-9a-f]"))
            place = next((p for p in there if p.name.endswith(f"-{digest}")), None)
            if place is None:
                number = 1 + max((int(p.name.partition("-")[0]) for p in there), default=0)
                place = self.folder / BUNDLES / f"{number:04d}-{digest}"
                place.parent.mkdir(exist_ok=True)
                with folder_beside(place) as partial:
                    shutil.copytree(bundle.resolve(), partial)
                verify(place)
            made = self._use(place, time=time, why=why)
            for old in [p for p in there if p != self.bundle][: max(0, len({*there, place}) - max(1, kept))]:
                shutil.rmtree(old)
            return made

    def rollback(self, to: str = "", *, time: str, why: str = "") -> Promotion:
        """Put an earlier bundle back into use.

        Args:
            to: Its folder's name, number or digest; the one before the one in use when empty.
            time: Now.
            why: In a sentence.

        Raises:
            InputError: There is none.
            ModelError: A file in it was changed since it was sealed.
            Unavailable: Another change is being made.
        """
        with alone(self.folder):
            there = sorted(p.name for p in (self.folder / BUNDLES).glob("[0-9]*-*[0-9a-f]"))
            noted = self.history()
            current = (
                noted[-1].bundle if noted else ""
            )  # not what the link says: it may have been killed before the note
            undone = bool(noted) and noted[-1].back and (self.bundle is None or self.bundle.name != current)
            if not to and undone:  # killed after it was noted: the same command makes it so
                to = current
            if not to:
                came = [one for one in noted if one.bundle == current and not one.back]
                to = came[-1].instead_of if came else ""
                if not to:
                    raise InputError(f"{self.folder}: nothing was in use before {current or 'the first bundle'}")
            number = f"{int(to):04d}" if to.isdigit() and len(to) <= 4 else to
            found = [name for name in there if number in (name, *name.split("-"))]
            if len(found) != 1:
                raise InputError(f"{self.folder}: no bundle {to!r}; there are: {', '.join(there) or 'none'}")
            verify(self.folder / BUNDLES / found[0])
            return self._use(self.folder / BUNDLES / found[0], time=time, why=why or "rolled back", back=True)

    def _use(self, place: Path, *, time: str, why: str, back: bool = False) -> Promotion:
        noted = self.history()
        before = noted[-1].bundle if noted else ""
        if before != place.name:  # noted first: of a kill in between, the same command makes what was noted so
            noted.append(Promotion(time=time, bundle=place.name, instead_of=before, why=why, back=back))
            write_beside(self.folder / LOG, "".join(json.dumps(asdict(one)) + "\n" for one in noted))
        if self.bundle != place:
            link = self.folder / f"{IN_USE}.partial"
            link.unlink(missing_ok=True)
            link.symlink_to(Path(BUNDLES) / place.name)
            link.replace(self.folder / IN_USE)
        return noted[-1]


def is_champion(folder: Path) -> bool:
    """Tell whether a folder is one of these."""
    return (folder / IN_USE).is_symlink() and (folder / BUNDLES).is_dir()
