"""Folders with answers for the tests, of plain colours and of words on green, of which a bundle of `runtime_graphs` knows what to say."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFont
from places import POLICY

from tilth.images import encode_png


def words(text: str) -> np.ndarray:
    """Words on green, which Stage 1 takes for a board."""
    image = Image.new("RGB", (320, 320), (20, 250, 20))
    ImageDraw.Draw(image).text((160, 160), text, fill=(0, 0, 0), font=ImageFont.load_default(34), anchor="mm")
    return np.asarray(image)


def write_folder(
    folder: Path,
    images: Mapping[str, np.ndarray | bytes],
    answers: list[dict[str, Any]],
    flips: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write one.

    Args:
        folder: To make.
        images: Pixels, or the bytes of a file, by name.
        answers: The lines; `policy` is base where nothing is said.
        flips: Of each other policy, what it says differently of which category.
    """
    (folder / "images").mkdir(parents=True)
    (folder / "policies").mkdir()
    shutil.copy(POLICY, folder / "policies" / "base.yaml")
    for name, changes in (flips or {}).items():
        told = yaml.safe_load(POLICY.read_text())
        told["categories"] = [one | dict(changes.get(one["name"], {})) for one in told["categories"]]
        (folder / "policies" / f"{name}.yaml").write_text(yaml.safe_dump(told))
    for name, image in images.items():
        (folder / "images" / name).write_bytes(image if isinstance(image, bytes) else encode_png(image))
    lines = [{"policy": "base", **line, "file": f"images/{line['file']}"} for line in answers]
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
