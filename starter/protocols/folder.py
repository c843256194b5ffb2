"""Write a folder that a bundle is judged on: policies, images, and what is true of each image under each policy.

policies/base.yaml    images/000000.png    answers.jsonl {"file": …, "policy": "base", "categories": […]}
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from tilth.data.files import folder_beside
from tilth.errors import InputError
from tilth.images import Image, encode_png

POLICY = Path(str(files("tilth"))) / "configs" / "policies" / "starter.yaml"
Row = Mapping[str, Any]


def write_folder(
    out: Path, drawn: Iterable[tuple[Image, Row]], *, advance: Callable[[int], None] = lambda n: None
) -> Path:
    """Write such a folder under the starter's policy, whole or not at all.

    Args:
        out: The folder, which must not be there.
        drawn: Images with what their lines say beside `file` and `policy`.
        advance: Called with the number of images just written.

    Raises:
        InputError: `out` is there.
    """
    if out.exists():
        raise InputError(f"{out} is there already; name another --out")
    with folder_beside(out) as partial:
        (partial / "images").mkdir(parents=True)
        (partial / "policies").mkdir()
        shutil.copy(POLICY, partial / "policies" / "base.yaml")
        with (partial / "answers.jsonl").open("w", encoding="utf-8") as stream:
            for number, (image, row) in enumerate(drawn):
                name = f"images/{number:06d}.png"
                (partial / name).write_bytes(encode_png(image))
                stream.write(json.dumps({"file": name, "policy": "base", **row}) + "\n")
                advance(1)
    return out
