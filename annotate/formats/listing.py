"""Label files that name their images: which files there are under a path, and where the images lie that they name."""

from collections.abc import Iterator
from pathlib import Path

from tilth.annotate.formats import Found, Named, Oddities, on_disk
from tilth.annotate.formats.files import Files
from tilth.errors import InputError


class Listing:
    """The label files of a source, and its images.

    Args:
        path: A label file, or a folder of them.
        suffixes: Of label files.
        images: Folder of the images; that of the labels when None.
        odd: Takes notes.
    """

    def __init__(self, path: Path, suffixes: tuple[str, ...], images: Path | None, odd: Oddities) -> None:
        self.folder = path.parent if path.is_file() else path
        self.root = images or self.folder
        self.odd, self._apart = odd, images is not None
        self._only = path.name if path.is_file() else ""
        self._labels = Files(self.folder, suffixes)
        self._images = Files(self.root)

    def files(self) -> Iterator[str]:
        """Yield the label files, relative to the folder."""
        return iter((self._only,)) if self._only else iter(self._labels)

    def place(self, file: str) -> Path:
        """Return where a label file lies.

        Raises:
            InputError: It is a link out of the folder.
        """
        return self.folder / file if self._only else self._labels.checked(file)

    def found(
        self,
        name: str,
        label_file: str,
        *,
        labels: tuple[Named, ...] = (),
        size_wh: tuple[int, int] | None = None,
        state: str = "",
        error: str = "",
    ) -> Found:
        """Say what a label file says of the image that it calls `name`."""
        beside = label_file.rpartition("/")[0]
        places = ("",) if self._apart else tuple(p.strip("/") for p in (beside, f"{beside}/images", "", "images"))
        try:
            if error or not name:
                raise InputError(error or "names no image")
            path = self._images.find(name, places, self.odd)
        except InputError as problem:
            return Found(name=name or label_file, label_file=label_file, error=str(problem))
        if not self._images.mark(path):
            self.odd.note("image listed twice", name)
        read = on_disk(self.root / path)
        return Found(name=path, read=read, label_file=label_file, labels=labels, size_wh=size_wh, state=state)

    def count(self) -> int:
        """Count the images that lie there."""
        return len(self._images)

    def rest(self) -> None:
        """Note the images that no label file has named."""
        for path in self._images.unmarked():
            self.odd.note("image that the label file does not list, left out", path)
