"""Plain images: every image file under a folder, without labels."""

from collections.abc import Iterator
from pathlib import Path

from tilth.annotate.formats.parts.files import Files
from tilth.annotate.formats.parts.records import Found, Oddities


class Folder:
    """Reads all image files under a root."""

    def __init__(self, root: Path, odd: Oddities) -> None:
        self.root = root
        self.images = Files(root)
        for name in self.images.doubles():
            odd.note("file name in several folders, each kept", name)

    def count(self) -> int:
        """Count the images."""
        return len(self.images)

    def __iter__(self) -> Iterator[Found]:
        """Return the images in the order of their names."""
        return map(self.images.unlabelled, self.images)
