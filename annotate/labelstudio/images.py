"""Where Label Studio shows an image from: a folder that it serves, an upload, or the store that the image came from."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tilth.annotate.labelstudio.client import Studio
from tilth.errors import InputError, Unavailable
from tilth.images import HEAD_BYTES, SUFFIX_OF, encode_png, is_plain, kind_of
from tilth.samples import Sample

Way = Literal["folder", "upload", "origin"]
SHOWN = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # by every browser
SCHEMES = {  # what an address begins with -> what Label Studio calls it
    "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "azure-blob": "azure-blob", "az": "azure-blob", "http": "http", "https": "https"
}  # fmt: skip
STORAGES = {
    "s3": ("s3", "bucket"),
    "gs": ("gcs", "bucket"),
    "azure-blob": ("azure", "container"),
}  # its address, their name
UPLOAD_BYTES = 50_000_000  # in one request; the server takes 250 MB


def _file(sample: Sample) -> tuple[str, bytes]:
    """Return a name and a file that every browser shows as it is decoded here.

    Browsers differ in whether they turn an image, and lay what is transparent on a ground of their own.
    """
    kind = kind_of(sample.data[:HEAD_BYTES])
    if kind in SHOWN and is_plain(sample.data):
        return sample.id + SUFFIX_OF[kind], sample.data
    return f"{sample.id}.png", encode_png(sample.pixels())


class Images:
    """Makes images visible to the people who review.

    Args:
        studio: The project.
        way: `folder` for a folder that the server serves, `upload` to send them to it, `origin` for the address that each came
            from, which the server or the browser must be able to read.
        files: The folder, `LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT` of the server; needed for `folder`.
    """

    def __init__(self, studio: Studio, way: Way, files: Path | None = None) -> None:
        self._studio, self._way, self._files = studio, way, files
        self._uploaded: dict[str, str] | None = None
        self._served: set[str] = set()
        if way == "folder":
            if files is None:
                raise InputError(
                    "images in a folder need the folder that Label Studio serves; give --files or use tilth review up"
                )
            self._folder = files / "tilth" / str(studio.project)
            self._folder.mkdir(parents=True, exist_ok=True)
            studio.serve_folder(str(self._folder.resolve()))

    def addresses(self, samples: Sequence[Sample]) -> list[str]:
        """Return what a task says of each image's place.

        Raises:
            InputError: An image has no address of its own, or one in a bucket that the project cannot read.
        """
        if self._way == "origin":
            addresses = [_origin(sample) for sample in samples]
            for bucket in sorted({"/".join(address.split("/")[:3]) for address in addresses} - self._served):
                self._check_storage(bucket)
                self._served.add(bucket)
            return addresses
        if self._way == "folder":
            return [self._put(sample) for sample in samples]
        return self._upload(samples)

    def _check_storage(self, bucket: str) -> None:
        """Refuse a bucket that the server would show nothing of; it takes such tasks, and people see broken images."""
        scheme, _, name = bucket.partition("://")
        if scheme not in STORAGES:
            return
        kind, field = STORAGES[scheme]
        known = self._studio.call("GET", f"api/storages/{kind}/", params={"project": self._studio.project})
        if not any(storage.get(field) == name for storage in known):
            raise InputError(
                f"{self._studio.page} has no storage for {bucket}, so nobody would see its images; add one in its Settings > "
                "Cloud Storage > Add Source Storage (save it, do not sync), then run again; or show images by folder or upload"
            )

    def _put(self, sample: Sample) -> str:
        name, data = _file(sample)
        path = self._folder / name
        if not path.exists():
            partial = path.with_suffix(".partial")  # a kill must not leave half an image under a name that is trusted
            partial.write_bytes(data)
            os.replace(partial, path)
        return f"/data/local-files/?d=tilth/{self._studio.project}/{name}"

    def _upload(self, samples: Sequence[Sample]) -> list[str]:
        files = [_file(sample) for sample in samples]
        known = self._known() if self._uploaded is None else self._uploaded
        batch: list[tuple[str, bytes]] = []
        for name, data in [*((n, d) for n, d in files if n not in known), ("", b"")]:
            if batch and (not name or sum(len(each) for _, each in batch) + len(data) > UPLOAD_BYTES):
                self._post(batch)
                batch = []
            batch.append((name, data))
        self._uploaded = known = self._known()
        if missing := [name for name, _ in files if name not in known]:
            raise Unavailable(f"Label Studio keeps {len(missing)} uploaded images under no name; run again")
        return [known[name] for name, _ in files]

    def _post(self, batch: Sequence[tuple[str, bytes]]) -> None:
        parts: Any = [(f"file{n}", (name, data)) for n, (name, data) in enumerate(batch)]
        self._studio.call(
            "POST", f"api/projects/{self._studio.project}/import", files=parts, params={"commit_to_project": "false"}
        )

    def _known(self) -> dict[str, str]:
        """Return the addresses of what lies on the server, so that a second try uploads nothing twice."""
        listed = self._studio.call("GET", f"api/projects/{self._studio.project}/file-uploads", params={"all": "true"})
        # the server puts eight letters and a dash before a name
        return {str(row["file"]).rpartition("-")[2]: f"/data/{row['file']}" for row in listed}


def _origin(sample: Sample) -> str:
    # what was mined has the key in its corpus as `source`; where that is an address, the corpus says so as `url`
    said = [str(sample.origin.get(name) or "") for name in ("source", "url")]
    for address in said:
        scheme, _, rest = address.partition("://")
        if scheme in SCHEMES and re.match(r"[^/\s]", rest):
            return f"{SCHEMES[scheme]}://{rest}"
    raise InputError(
        f"sample {sample.id[:12]} came from {said[0] or 'nowhere'!r}, which is no {', '.join(f'{s}://' for s in SCHEMES)} "
        "address; show images by folder or upload"
    )
