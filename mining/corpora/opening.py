"""How to tell what kind of corpus lies at a place; and those in tar archives and object stores (`tables.py` has tables).

Nothing is unpacked. A key says where an image lies, so that any image can be read alone.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tilth.errors import InputError
from tilth.images import HEAD_BYTES, MAX_BYTES, SUFFIXES, is_image, kind_of
from tilth.mining.corpora.corpus import Corpus, FolderCorpus, Item, Shards, about_of, limited
from tilth.mining.corpora.places import StorePlace, place_of
from tilth.mining.corpora.tables import ArrowCorpus, LanceCorpus, ParquetCorpus
from tilth.mining.corpora.web import UrlCorpus
from tilth.sources.shards import LABELS, Shard, find_part, images_of, key_of, leftover
from tilth.sources.walk import NO_SUFFIX, LeftAlone, hidden, suffix_of

BROKEN = "broken archive"
ASKED = 50  # objects of a store without a suffix, each with a request of its own
MAX_SIDECAR = 64 * 1024  # bytes of a JSON member


def open_corpus(location: str, downloads: Path | None = None) -> Corpus:
    """Open a corpus by what lies at its location.

    Args:
        location: A folder of images, of `.tar`, `.parquet` or `.arrow` files (Hugging Face `datasets`), one such file, a Lance
            table, a list of URLs (`.txt`, `.csv` or `.tsv`); or the URL of any of these (but for lists and Arrow files) in an object
            store, such as `s3://bucket/images` or `hf://datasets/owner/name`.
        downloads: Folder that keeps what a list of URLs leads to; beside the list when None.

    Raises:
        InputError: There is nothing, or nothing that is a corpus.
    """
    path = Path(location)
    if path.name.endswith(".lance"):
        return LanceCorpus(location)
    if path.suffix.lower() in (".txt", ".csv", ".tsv") and path.is_file():
        return UrlCorpus(path, downloads or path.with_suffix(".downloads"))
    remote = "://" in location
    if not remote and not path.exists():
        raise InputError(f"{location}: no such folder of images")
    kind = next(filter(None, map(_kind, place_of(location).names())), "")
    if kind in SHARDED:
        return SHARDED[kind](location)
    if remote:
        return StoreCorpus(location)
    if path.is_file():
        raise InputError(
            f"{path}: not a corpus; give a folder, a .tar, .parquet, .arrow, .lance, .txt, .csv or .tsv, or a URL"
        )
    return FolderCorpus(path)


def _kind(name: str) -> str:
    """Return the suffix of an archive, a table or an image; empty for other files."""
    if any(map(hidden, name.split("/"))):
        return ""
    suffix = suffix_of(name)
    return suffix if suffix in SHARDED or suffix in SUFFIXES else ""


class TarCorpus(Shards):
    """The images in tar archives, as WebDataset writes them; a JSON file of the same key says licence and url.

    Archives are read where they lie. A key is `shard.tar/member@first:offset:size`, with the bytes where the sample and the
    image begin. Links and devices in an archive are passed over; a damaged archive gives what comes before the damage, and one
    item that cannot be read.

    Args:
        location: A `.tar` file, or a folder of them, here or in an object store.

    Raises:
        InputError: There is none.
    """

    def __init__(self, location: str) -> None:
        super().__init__(location, ".tar")

    def items(self) -> Iterator[Item]:
        """Yield the images in the order of the archives."""
        self.left_alone = self.beside()
        for name in self._names:
            stamp = self._files.stamp(name)
            with self._files.open(name) as stream:
                shard = Shard(stream, name, self.left_alone)
                for group in shard:
                    images = images_of(group.members)
                    for image in images:
                        yield Item(key=f"{name}/{image.name}@{group.first}:{image.at}:{image.size}", stamp=stamp)
                    for member in group.members:
                        if member not in images and (member.part != LABELS or not images):
                            self.left_alone.note(leftover(member.part), f"{name}/{member.name}")
            if shard.damage:
                yield Item(key=f"{name}/@{BROKEN}", stamp=stamp)

    def _split(self, key: str) -> tuple[str, int, int, int]:
        member, _, place = key.rpartition("@")
        name = member[: member.lower().find(".tar/") + len(".tar")]
        if place == BROKEN:
            raise InputError(f"{key.rpartition('/')[0]}: {BROKEN}; what comes after the damage is lost")
        try:
            first, offset, size = map(int, place.split(":"))
        except ValueError as error:
            raise InputError(f"{key}: no such image in the corpus") from error
        return name, first, offset, size

    def read(self, key: str) -> bytes:
        """Return the bytes of a member."""
        name, _, offset, size = self._split(key)
        if size > MAX_BYTES:
            raise InputError(f"{key}: larger than {MAX_BYTES // 2**20} MiB")
        data = self._files.range(name, offset, size)
        if len(data) < size:
            raise InputError(f"{key}: the archive ends before the image does")
        return limited(data, key)

    def stamp(self, key: str) -> str:
        """Return size and time of change of the archive."""
        try:
            return self._files.stamp(self._split(key)[0])
        except InputError:
            return ""

    def about(self, key: str) -> dict[str, str]:
        """Read the JSON member of the same sample."""
        name, first, _, _ = self._split(key)
        member = key.rpartition("@")[0].removeprefix(f"{name}/")
        with self._files.open(name) as stream:
            data = find_part(stream, first, key_of(member)[0], LABELS, MAX_SIDECAR)
        try:
            return about_of(json.loads(data))
        except (ValueError, RecursionError):
            return {}


class StoreCorpus:
    """The image files below a URL of an object store.

    Args:
        url: Such as `s3://bucket/images` or `gs://bucket/images`.

    Raises:
        InputError: The library for this kind of store is not installed, or the URL makes no sense.
    """

    def __init__(self, url: str) -> None:
        self._files = StorePlace(url)
        self.name, self.place = self._files.name, self._files.place
        self.left_alone = LeftAlone()

    def items(self) -> Iterator[Item]:
        """Yield the images in the order of their paths, a folder at a time.

        Objects without a suffix are asked for their first bytes; when the first are alike, the others are taken to be so, too.
        """
        self.left_alone = LeftAlone()
        told: list[bool] = []  # which of the objects without a suffix are images
        for name, stamp in self._files.entries():
            suffix = suffix_of(name)
            taken = suffix in SUFFIXES
            if not suffix:
                alike = len(told) >= ASKED and len(set(told)) == 1
                taken = told[0] if alike else self._is_image(name)
                told += [taken] * (len(told) < ASKED)
            if taken:
                yield Item(key=name, stamp=stamp)
            else:
                self.left_alone.note(suffix or NO_SUFFIX, name)

    def _is_image(self, name: str) -> bool:
        try:
            return is_image(kind_of(self._files.range(name, 0, HEAD_BYTES)))
        except InputError:
            return True  # reading it will say what is wrong

    def read(self, key: str) -> bytes:
        """Return the bytes of an object, at most what the decoder takes."""
        return limited(self._files.range(key, 0, MAX_BYTES + 1), key)

    def stamp(self, key: str) -> str:
        """Return size and version of an object; empty when it is gone."""
        return self._files.stamp(key)

    def about(self, key: str) -> dict[str, str]:
        """Return the URL of an object."""
        return {"url": f"{self.place.rstrip('/')}/{key}"}


# suffix of a file -> the corpus of such files
SHARDED: dict[str, Callable[[str], Corpus]] = {".tar": TarCorpus, ".parquet": ParquetCorpus, ".arrow": ArrowCorpus}
