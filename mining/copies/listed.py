"""The hash gate: keeps images out that are on a list of perceptual hashes, before they are stored or shown.

Paper: https://github.com/facebook/ThreatExchange/blob/main/hashing/hashing.pdf

A list is a file in the form that `threatexchange dataset` prints, whatever exchange it came from: a line an image, `pdq` and
64 hex digits, or the digits alone; lines of other kinds of hashes are passed over.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tilth.data.dataset import Dataset
from tilth.data.files import write_beside
from tilth.errors import InputError
from tilth.extras import optional
from tilth.images import Image
from tilth.mining.copies.hash import SMALLEST_SIDE, pdq, to_bytes
from tilth.mining.copies.near import hash_index, neighbours
from tilth.policy import Policy

MAX_DISTANCE = 31  # bits of 256
LEAST_QUALITY = 50  # plainer images have hashes that match by chance
PDQ = re.compile(r"[0-9a-f]{64}")


class HashLists:
    """Looks images up on lists of PDQ hashes, as they are and turned or mirrored in all eight ways.

    A match is within 31 of 256 bits, the distance that the makers of PDQ recommend.

    Args:
        paths: Of the lists.

    Raises:
        InputError: A list is absent, or holds no PDQ hash.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._names: list[str] = []
        hashes: list[str] = []
        for path in paths:
            found = read_list(path)
            if not found:
                raise InputError(f"{path}: no PDQ hash in it; a line is 'pdq' and 64 hex digits, or the digits alone")
            hashes += found
            self._names += [path.stem] * len(found)
        self._index = hash_index(to_bytes(hashes), MAX_DISTANCE)
        self.digest = hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()

    def __len__(self) -> int:
        """Count the hashes."""
        return len(self._names)

    def __call__(self, image: Image) -> str | None:
        """Say on which list an image is, or None."""
        found = hashes_of(image)
        for _, entry, _ in neighbours(self._index, to_bytes(found), MAX_DISTANCE):
            return f"on the hash list {self._names[entry]!r}; quarantined"
        return None


def read_list(path: Path) -> list[str]:
    """Return the PDQ hashes of a list.

    Raises:
        InputError: There is no such file, it is no text, or a line says `pdq` of something that is not one.
    """
    hashes = []
    try:
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                first, *rest = [*line.replace(",", " ").split(), ""]
                named = first.lower() == "pdq"
                text = (rest[0] if named else first).lower()
                if PDQ.fullmatch(text):
                    hashes.append(text)
                elif named:
                    raise InputError(f"{path}: {text[:20]!r} is not a PDQ hash; they have 64 hex digits")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable hash list: {error}") from error
    return hashes


def hashes_of(image: Image) -> list[str]:
    """Return the PDQ hashes of an image that is not too plain: turned and mirrored, and enlarged when it is small."""
    with optional():
        import pdqhash
    found, quality = pdqhash.compute_dihedral(np.ascontiguousarray(image))
    hashes = [np.packbits(bits.astype(np.uint8)).tobytes().hex() for bits in found] if quality >= LEAST_QUALITY else []
    if min(image.shape[:2]) < SMALLEST_SIDE:
        text, quality = pdq(image)
        hashes += [text] if quality >= LEAST_QUALITY else []
    return hashes


def sweep(dataset: Dataset, lists: HashLists | None, time: str) -> list[str]:
    """Take kept images that have come onto a list out of a dataset, and return their ids.

    Every image passed the gate when it came, so all are looked at again only when the lists have changed since.
    """
    path = dataset.root / "hash_lists.sha256"
    if lists is None or (path.exists() and path.read_text() == lists.digest):
        return []
    refused = dataset.sweep(time)
    write_beside(path, lists.digest)
    return refused


def guard_of(policy: Policy) -> HashLists | None:
    """Return the hash gate of a policy; None when it names no lists."""
    return HashLists(policy.hash_lists) if policy.hash_lists else None
