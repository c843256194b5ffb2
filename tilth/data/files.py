"""Files and folders that a reader finds whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_beside(path: Path, text: str) -> None:
    """Write a file so that a reader finds it whole or not at all."""
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)


@contextmanager
def folder_beside(folder: Path) -> Iterator[Path]:
    """Give a name for a folder to be made; filled, it takes the place of `folder`, so that a reader finds it whole or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
