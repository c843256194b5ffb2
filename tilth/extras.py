"""Libraries that are not always there: optional ones, imported where they are used, and those that cannot live beside the others.

The latter live in environments of their own, made by `tilth env`, and are used by worker processes.
"""

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tilth.errors import InputError, MissingExtra, Unavailable

# import name -> the extra that installs it
EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "transformers": "train",
    "pycocotools": "train",
    "sklearn": "train",
    "pytorch_metric_learning": "train",
    "cleanlab": "clean",
    "onnx": "train",
    "onnxscript": "train",
    "diffusers": "synth",
    "peft": "synth",
    "accelerate": "synth",
    "controlnet_aux": "synth",
    "soundfile": "sound",
    "soxr": "sound",
    "faiss": "mining",
    "pdqhash": "mining",
    "rensa": "mining",
    "idna": "mining",
    "s3fs": "s3",
    "label_studio_sdk": "review",
    "groundingdino": "groundingdino",
    "onnxruntime": "runtime",
    "openvino": "openvino",
    "httpx": "runtime",
    "llama_cpp": "llamacpp",
    "mlcroissant": "cards",
    "c2pa": "c2pa",
    "cryptography": "c2pa",
    "rapidocr": "runtime",
    "fastapi": "runtime",
    "uvicorn": "runtime",
    "httpcore": "runtime",
    "prometheus_client": "runtime",
    "python_multipart": "runtime",
    "tokenizers": "runtime",
    "nicegui": "console",
    "ray": "cluster",
    "lance_ray": "cluster",
    "grpc_reflection": "serve",  # what `ray.serve` misses first
}


@contextmanager
def optional() -> Iterator[None]:
    """Turn a missing optional library into an error that says what to install.

    A library that is present but broken keeps its own traceback.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        raise MissingExtra(f"{error.name} is not installed; run: pip install 'tilth[{extra}]'") from error


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What an environment holds.

    Args:
        requirements: What pip installs.
        variable: Environment variable that names its folder, or a program in its `bin`, when it lies elsewhere.
        why: Why it cannot be part of ours.
        size_gb: Of the disk, about.
    """

    requirements: tuple[str, ...]
    variable: str
    why: str
    size_gb: float


ENVIRONMENTS = {
    "lavis": Environment(
        # opencv 4.5.5, which it pins, was built for numpy 1, and later versions of pyarrow want numpy 2
        requirements=("salesforce-lavis==1.0.2", "numpy<2", "pyarrow<20"),
        variable="TILTH_LAVIS",
        why="salesforce-lavis pins transformers below 4.27",
        size_gb=7,
    ),
    "label-studio": Environment(
        requirements=("label-studio>=1.23,<1.24",),
        variable="TILTH_LABEL_STUDIO",
        why="label-studio pins Django and some hundred libraries of its own",
        size_gb=1.1,
    ),
}


def folder_of(name: str) -> Path:
    """Return where an environment lies, or would."""
    named = os.environ.get(ENVIRONMENTS[name].variable)
    data = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
    if not named:
        return data / "tilth" / name
    # of a link in a bin folder, that folder counts, not what it leads to
    return Path(named).parents[1] if Path(named).is_file() else Path(named)


def python_of(name: str) -> Path:
    """Return the Python of an environment.

    Raises:
        InputError: It has not been made.
    """
    python = folder_of(name) / "bin" / "python"
    if not python.exists():
        raise InputError(
            f"{name} is not installed ({ENVIRONMENTS[name].why}, so it needs an environment of its own); run: tilth env {name}"
        )
    return python


def make(name: str) -> Path:
    """Make an environment, or finish one that was interrupted; pip's own progress shows.

    Raises:
        InputError: There is none of this name.
        Unavailable: pip failed.
    """
    if name not in ENVIRONMENTS:
        raise InputError(f"no environment {name!r}; there are: {', '.join(ENVIRONMENTS)}")
    folder = folder_of(name)
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", *ENVIRONMENTS[name].requirements]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise Unavailable(f"pip could not fill {folder}; see above, and run tilth env {name} again to go on")
    return folder
