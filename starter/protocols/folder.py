"""Write a folder that a bundle is judged on: policies, images, and what is true of each image under each policy.

policies/base.yaml    images/000000.png    answers.jsonl {"file": …, "policy": "base", "categories": […]}
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from tilth.data.files import folder_beside
from tilth.errors import InputError
from tilth.images import Image, encode_png

POLICY = Path(str(files("tilth"))) / "configs" / "policies" / "starter.yaml"
Row = Mapping[str, Any]


def write_folder(
    out: Path, policies: Mapping[str, str], rows: Callable[[Path], Iterable[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """Write such a folder, whole or not at all; yield its answers.

    Args:
        out: The folder, which must not be there.
        policies: The text of each, by name.
        rows: Writes images into the folder that it is given, and yields what is true of them.

    Raises:
        InputError: `out` is there.
    """
    if out.exists():
        raise InputError(f"{out} is there already; name another --out")
    with folder_beside(out) as partial:
        (partial / "policies").mkdir(parents=True)
        (partial / "images").mkdir()
        for name, text in policies.items():
            (partial / "policies" / f"{name}.yaml").write_text(text, encoding="utf-8")
        with (partial / "answers.jsonl").open("w", encoding="utf-8") as stream:
            for row in rows(partial):
                stream.write(json.dumps(row) + "\n")
                yield row


def write_drawn(
    out: Path, drawn: Iterable[tuple[Image, Row]], *, advance: Callable[[int], None] = lambda n: None
) -> None:
    """Write such a folder under the starter's policy.

    Args:
        out: The folder, which must not be there.
        drawn: Images with what their lines say beside `file` and `policy`.
        advance: Called with the number of images just written.

    Raises:
        InputError: `out` is there.
    """

    def rows(folder: Path) -> Iterator[dict[str, Any]]:
        for number, (image, row) in enumerate(drawn):
            name = f"images/{number:06d}.png"
            (folder / name).write_bytes(encode_png(image))
            yield {"file": name, "policy": "base", **row}
            advance(1)

    for _ in write_folder(out, {"base": POLICY.read_text(encoding="utf-8")}, rows):
        pass
