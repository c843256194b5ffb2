"""Files and folders that a reader finds whole or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tilth.errors import Unavailable


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


@contextmanager
def alone(folder: Path, cure: str = "wait for it") -> Iterator[None]:
    """Hold a folder, made when absent, against another process; the system lets go of it when this one dies.

    Args:
        folder: Holds the file `.lock`.
        cure: What to do when it is held.

    Raises:
        Unavailable: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Unavailable(f"{folder}: another run is at work here; {cure}") from error
        yield
