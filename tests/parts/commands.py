"""The command line, as a process of its own."""

import subprocess
import sys
from pathlib import Path


def command(*arguments: object) -> list[str]:
    """Return what is started."""
    return [sys.executable, "-m", "tilth.pipeline.cli.main", *map(str, arguments)]


def tilth(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run it, and return how it ended and what it said."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, cwd=cwd, timeout=240)
