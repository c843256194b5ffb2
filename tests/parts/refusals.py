"""What a command says that was refused."""

import json
import subprocess


def refusal(done: "subprocess.CompletedProcess[str]") -> str:
    """Return why; it must be all that was said on standard error, as one event that also has the exit code."""
    (line,) = done.stderr.splitlines()
    told = json.loads(line)
    assert (told["event"], told["exit_code"]) == ("error", done.returncode)
    return str(told["message"])
