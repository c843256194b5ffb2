"""Model checkpoints by name: where they lie, what they may be used for, and exactly which weights they are.

A recipe names a model in one of three ways, and swapping one for another is the only change from laptop to GPU:

    starter:grounding                            a miniature that comes with Tilth
    ./checkpoints/my-detector                    a folder in the layout of `save_pretrained`
    IDEA-Research/grounding-dino-tiny@a2bb814    a hub repository at a commit
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import yaml

from tilth.errors import InputError, ModelError, TilthError, Unavailable
from tilth.extras import optional

# The only files that a checkpoint may hold. Nothing here can run code when it is read.
WEIGHTS = ".safetensors"
GRAPH = ".onnx"
SAFE_SUFFIXES = (".safetensors", ".onnx", ".gguf", ".json", ".txt", ".model", ".jinja", ".yaml")
HUB_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What is known of a checkpoint before it is loaded.

    Args:
        name: As a recipe writes it.
        family: Architecture, such as `grounding-dino`; empty when no card says.
        licence: SPDX name, or what the card says; empty when unknown.
        paper: Address of the paper.
        download_mb: Size of the download; 0 for a local one.
        memory_mb: Memory it takes once loaded, as the card says; 0 when unknown.
        peak_mb: The most memory that a step takes with it, as the card estimates; 0 when it does not.
        full_size: Under which name `configs/models/full_size.json` has what was measured of it; empty when nothing was.
    """

    name: str
    family: str = ""
    licence: str = ""
    paper: str = ""
    download_mb: float = 0
    memory_mb: float = 0
    peak_mb: float = 0
    full_size: str = ""

    @property
    def place(self) -> str:
        """`starter`, `folder` or `hub`."""
        if self.name.startswith("starter:"):
            return "starter"
        here = self.name.startswith((".", "/", "~")) or self.name.endswith((WEIGHTS, GRAPH)) or Path(self.name).is_dir()
        return "folder" if here else "hub"


@lru_cache(maxsize=1)
def _cards() -> dict[str, dict[str, object]]:
    folder = Path(str(files("tilth"))) / "configs" / "models"
    cards = {}
    for path in sorted(folder.glob("*.card.yaml")):
        card = yaml.safe_load(path.read_text(encoding="utf-8"))
        cards[str(card["location"]).partition("@")[0]] = card
    return cards


def spec(name: str) -> ModelSpec:
    """Return what the model's card says, or an almost empty spec when it has none."""
    card = _cards().get(name.partition("@")[0], {})
    return ModelSpec(
        name=name,
        family=str(card.get("family", "")),
        licence=str(card.get("licence", "")),
        paper=str(card.get("paper", "")),
        download_mb=float(str(card.get("download_mb", 0))),
        memory_mb=float(str(card.get("memory_mb", 0))),
        peak_mb=float(str(card.get("peak_mb", 0))),
        full_size=str(card.get("full_size", "")),
    )


def locate(name: str) -> Path:
    """Return the local folder of a model, downloading a hub model first unless `HF_HUB_OFFLINE` is set.

    Raises:
        ModelError: The model is absent, cannot be downloaded, or has weights in a format that could run code.
        Unavailable: The hub does not answer, and the model is not here yet.
    """
    found = find(name)
    if found.is_file():
        what = "a graph" if found.suffix == GRAPH else "an adapter"
        raise ModelError(f"{name}: a single file is {what}; a model is a folder in the layout of save_pretrained")
    return found


def adapter_file(name: str) -> Path:
    """Return the weights of an adapter: the file that was named, or the only one of a folder or repository.

    Raises:
        ModelError: It is absent, or a folder has several.
    """
    found = find(name)
    files = sorted(found.glob(f"*{WEIGHTS}")) if found.is_dir() else [found] if found.suffix == WEIGHTS else []
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise ModelError(
            f"{name}: an adapter is a {WEIGHTS} file or a folder with exactly one; there are {len(files)} here: {names}"
        )
    return files[0]


def find(name: str) -> Path:
    """Return the local folder of a model, or the file of an adapter or a graph that was named by it; see `locate`."""
    which = spec(name)
    if which.place == "starter":
        folder = Path(str(files("tilth.starter"))) / "models" / name.removeprefix("starter:")
        if not folder.is_dir():
            raise ModelError(f"no starter model {name!r}; build it with: python -m tilth.starter train {folder.name}")
    elif which.place == "folder":
        folder = Path(name).expanduser()
        if folder.is_file() and folder.suffix in (WEIGHTS, GRAPH):
            return folder
        if not folder.is_dir():
            raise ModelError(
                f"{name}: no such {'file' if folder.suffix == GRAPH else 'folder'}; give a folder, a starter: model or a hub id"
            )
    else:
        folder = _download(name)
    if not any(path.suffix in (WEIGHTS, ".onnx", ".gguf") for path in folder.rglob("*")):
        raise ModelError(f"{name}: no {WEIGHTS}, .onnx or .gguf weights in {folder}; pickled weights are never loaded")
    return folder


def check(name: str) -> None:
    """Find out whether a model can be had, without loading or downloading it.

    Raises:
        ModelError: It is absent, or not pinned.
        Unavailable: It is on a hub that does not answer.
    """
    if spec(name).place != "hub":
        find(name)
    elif not is_here(name):
        _pinned(name)
        if why := _hub_silent():
            raise _unavailable(name, why)


def is_here(name: str) -> bool:
    """Tell whether a model needs no download."""
    if spec(name).place != "hub":
        return find(name).exists()
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = name.partition("@")
    looked_for = (
        try_to_load_from_cache(repository, file, revision=revision or None)
        for file in ("config.json", "model_index.json")
    )
    return any(isinstance(path, str) for path in looked_for)


def _pinned(name: str) -> tuple[str, str]:
    repository, _, revision = name.partition("@")
    if not revision:
        raise ModelError(f"{name}: name a commit, as in {name}@<commit>, so that two runs load the same weights")
    return repository, revision


def needed(names: Sequence[str]) -> list[str]:
    """Choose the files of a hub repository that loading it takes; the same weights often lie there several times.

    Variants (`model.fp16.safetensors`) are left out where the file that they vary is there, and of a repository of parts the single files
    that hold all of them at once, which other tools read: of Stable Diffusion 1.5 these are 5 GB instead of 24.

    >>> needed(["model_index.json", "whole.safetensors", "unet/part.safetensors", "unet/part.fp16.safetensors", "unet/part.bin"])
    ['model_index.json', 'unet/part.safetensors']
    """
    chosen = [name for name in names if any(fnmatch(name, pattern) for pattern in HUB_PATTERNS)]
    parts = "model_index.json" in names

    def is_more(name: str) -> bool:
        folder, _, file = name.removesuffix(WEIGHTS).rpartition("/")
        plain = f"{folder}/{file.partition('.')[0]}" if folder else file.partition(".")[0]
        alike = any(other.startswith((f"{plain}{WEIGHTS}", f"{plain}-0")) for other in chosen if other != name)
        return (parts and not folder) or ("." in file and alike)

    return [name for name in chosen if not (name.endswith(WEIGHTS) and is_more(name))]


OFFLINE = "offline and not downloaded yet"
CURE = "download it once with network access, or use a local folder"


def _download(name: str) -> Path:
    repository, revision = _pinned(name)
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    why = _hub_silent()  # its own client would try again for half a minute
    if why and not is_here(name):
        raise _unavailable(name, why)
    try:
        patterns = HUB_PATTERNS if why else needed(HfApi().list_repo_files(repository, revision=revision))
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=bool(why))
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0]
        answer = getattr(getattr(error, "response", None), "status_code", 404)
        if answer >= 500 or answer == 429:
            raise Unavailable(f"{name}: the hub answers {answer}; run again later, or use a local folder") from error
        raise ModelError(f"{name}: {told}; {CURE}") from error


@lru_cache(maxsize=1)
def _hub_silent() -> str:
    """Say why the hub cannot be asked, which is found out at once; empty when it can be."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return OFFLINE
    import httpx
    from huggingface_hub import constants

    try:
        httpx.head(constants.ENDPOINT, timeout=5)
    except httpx.HTTPError as error:
        return f"{constants.ENDPOINT} does not answer ({type(error).__name__})"
    return ""


def _unavailable(name: str, why: str) -> TilthError:
    if why == OFFLINE:
        return ModelError(f"{name}: {why}; {CURE}")
    return Unavailable(f"{name}: {why}; run again when there is network, or use a local folder")


def _files(folder: Path) -> Iterator[Path]:
    return (
        p
        for p in (sorted(folder.rglob("*")) if folder.is_dir() else [folder])
        if p.is_file() and p.suffix in SAFE_SUFFIXES
    )


@lru_cache(maxsize=64)
def _hash(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(name: str) -> str:
    """Return 12 hex digits that change whenever a weight or a setting of the model does."""
    folder = find(name)
    whole = hashlib.sha256()
    for path in _files(folder):
        stat = path.stat()
        whole.update(
            f"{path.relative_to(folder) if path != folder else path.name} {_hash(path, stat.st_size, stat.st_mtime_ns)}\n".encode()
        )
    return whole.hexdigest()[:12]


def source(name: str) -> str:
    """Return how claims name this model: `model:starter:grounding@1f2e3d…`."""
    return f"model:{name.partition('@')[0]}@{digest(name)}"


def settings(name: str) -> dict[str, object]:
    """Return the `config.json` of a model."""
    found: dict[str, object] = json.loads((locate(name) / "config.json").read_text())
    return found


def device(wanted: str = "auto") -> str:
    """Return the device to run on: the one asked for, or the best there is."""
    if wanted != "auto":
        return wanted
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(wanted: str) -> None:
    """Refuse a device that this machine does not have, before it is needed.

    Raises:
        InputError: It is none that torch knows, or not here.
    """
    if wanted in ("auto", "cpu"):
        return
    with optional():
        import torch
    try:
        asked = torch.device(wanted)
    except RuntimeError as error:
        raise InputError(f"device must be auto, cpu, cuda, cuda:1 or mps, got {wanted!r}") from error
    count = torch.cuda.device_count() if asked.type == "cuda" else int(torch.backends.mps.is_available())
    if asked.type not in ("cuda", "mps") or (asked.index or 0) >= count:
        raise InputError(f"device {wanted} is not on this machine, which has {count} of its kind; give auto or cpu")


def precision(on: str) -> str:
    """Return the number format that inference uses on a device: `bfloat16` where the hardware multiplies it, else `float32`.

    fp16 is never chosen on a CPU, where it is a hundred times slower than float32.
    """
    import torch

    if on.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if on == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return "bfloat16"
    return "float32"
