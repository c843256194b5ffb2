"""Images that must never be trained on: a sealed test set, recognised by pixels and by hash."""

from collections.abc import Sequence
from pathlib import Path

from tilth.errors import InputError
from tilth.events import Events
from tilth.images import Image, decode, image_id
from tilth.mining.copies.hash import pdq, to_bytes
from tilth.mining.copies.near import hash_index, neighbours
from tilth.mining.corpora.corpus import FolderCorpus

REASON = "near-duplicate of a sealed test image"


class Sealed:
    """The images of some folders, such as the folder of a COCO test set; images are looked for at any depth.

    Args:
        folders: Where they are.
        max_distance: PDQ bits of 256 up to which an image counts as a copy.
        events: Where progress goes.

    Raises:
        InputError: A folder is absent or holds no image, or an image cannot be read: a seal with a hole is none.
    """

    def __init__(self, folders: Sequence[Path], max_distance: int, events: Events) -> None:
        self.max_distance = max_distance
        self.ids: set[str] = set()
        hashes: list[str] = []
        for folder in folders:
            corpus = FolderCorpus(folder)
            with events.progress(f"hash {folder}", None) as advance:
                before = len(hashes)
                for item in corpus.items():
                    image = decode(corpus.read(item.key))
                    self.ids.add(image_id(image))
                    hashes.append(pdq(image)[0])
                    advance()
                if len(hashes) == before:
                    raise InputError(f"{folder}: holds no image to keep apart; give the folder of the sealed test set")
        self._index = hash_index(to_bytes(hashes), max_distance) if hashes else None

    def __len__(self) -> int:
        """Count the sealed images."""
        return len(self.ids)

    def near(self, hashes: Sequence[str]) -> list[int | None]:
        """Return for each hash its distance in bits from the nearest sealed image; None when that is too far."""
        found: list[int | None] = [None] * len(hashes)
        if self._index is None or not hashes:
            return found
        for query, _, distance in neighbours(self._index, to_bytes(hashes), self.max_distance):
            known = found[query]
            found[query] = distance if known is None else min(known, distance)
        return found

    def hold(self, images: Sequence[Image]) -> list[bool]:
        """Tell of each image whether it is sealed, or a copy of a sealed one; the index is slow when it is asked for each alone."""
        near = self.near([pdq(image)[0] for image in images])
        return [image_id(image) in self.ids or far is not None for image, far in zip(images, near, strict=True)]
