"""What a command says on standard error: without a terminal JSON lines and nothing else, with one our bars and messages alone.

Libraries are asked to be silent first. What they, their parts in C++ and their child processes say all the same goes through the
file descriptor, not through Python, so that is where it is caught: `wrapping.py` makes it events, `{"event": "library", "text": …}`.
"""

import json
import os
import select
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path

WRAPPER = Path(__file__).with_name("wrapping.py")
PATIENCE_S = 5.0

SILENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "GLOG_minloglevel": "2",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}

_wrapper: "subprocess.Popen[bytes] | None" = None


def quiet_libraries() -> None:
    """Ask libraries for no bars, no reports and no warnings; an environment variable that is set already keeps its value."""
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def wrap_stderr() -> None:
    """Let everything that goes to standard error from here on be JSON lines, unless a person watches a terminal."""
    global _wrapper
    if _wrapper is not None or not _is_open(2) or os.isatty(2):
        return
    given, ours = os.pipe()
    # in a session of its own: Ctrl-C is for the command, whose last words are still to be told
    _wrapper = subprocess.Popen(
        [sys.executable, "-I", "-S", str(WRAPPER)], stdin=given, stdout=subprocess.PIPE, start_new_session=True
    )
    os.close(given)
    sys.stderr.flush()
    os.dup2(ours, 2)
    os.close(ours)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return sys.stderr is not None


def wrapped() -> bool:
    """Say whether standard error is wrapped."""
    return _wrapper is not None


def tell(event: str, message: str, **fields: object) -> None:
    """Say something last, in the form of what was said before: an error that ended the command, or why it was stopped."""
    if _wrapper is None:
        print(fields.get("traceback") or f"tilth: {message}", file=sys.stderr)
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(json.dumps({"time": now, "event": event, "message": message, **fields}), file=sys.stderr)


def tell_crash(error: BaseException) -> None:
    """Say that the command failed in a way that nobody foresaw, with all that helps to find out why."""
    told = "".join(traceback.format_exception(error)).rstrip()
    tell("crash", told.splitlines()[-1], traceback=told)


def settle() -> None:
    """Wait until all that was said is written, so that what goes to standard output comes after it."""
    if _wrapper is None or _wrapper.stdout is None:
        return
    from tilth.pipeline.cli.wrapping import END

    try:
        sys.stderr.flush()
        os.write(2, b"\n" + END + b"\n")
        if select.select([_wrapper.stdout], [], [], PATIENCE_S)[0]:
            os.read(_wrapper.stdout.fileno(), 1)
    except (OSError, ValueError):  # it is gone, and nobody is left to tell
        return
