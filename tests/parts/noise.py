"""Images that no other seed has, and archives of them."""

import io
import tarfile
from pathlib import Path

import numpy as np

from tilth.images import encode_png
from tilth.samples import NewSample


def noise_image(seed: int, side: int = 16) -> bytes:
    """A PNG that no other seed has."""
    return encode_png(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def noise_samples(n: int, side: int = 16) -> list[NewSample]:
    return [NewSample(data=noise_image(i, side), origin={"source": f"{i}.png"}) for i in range(n)]


def tar(path: Path, *members: tuple[str, bytes]) -> Path:
    """Write an archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path
