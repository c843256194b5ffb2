"""Rendered sets of scenes, made once and kept on disk; every purpose has seeds of its own.

A set is a folder with `images.npy` `(n, side, side, 3)` uint8, opened as a memory map, `patches.npy` `(n, 2, 8, 8)` int8
(kind and colour index of the 8 x 8 patches of an image, -1 where there is none) and `scenes.json`.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tilth.starter.world.made_up import MADE_UP
from tilth.starter.world.scene import COLORS, KINDS, STYLES, Scene, Thing, draw_spec, render

# Sets drawn for different purposes never share a seed: image i of a purpose uses seed (number, i).
PURPOSES = {
    "train": 1,
    "held_out": 2,
    "judge": 3,
    "labelled": 4,
    "corpus": 5,
    "test": 6,
    "judge_held_out": 7,
    "examples": 8,
}

KIND_NAMES = (*KINDS, "sign")
PATCH_NAMES = (*KIND_NAMES, *MADE_UP)
COLOR_NAMES = tuple(COLORS)


@dataclass(frozen=True, kw_only=True)
class SceneSet:
    """Images `(n, side, side, 3)`, patch labels `(n, 2, 8, 8)` and the truth of `n` scenes."""

    images: npt.NDArray[np.uint8]
    patches: npt.NDArray[np.int8]
    scenes: list[Scene]


def _patch_labels(scene: Scene) -> npt.NDArray[np.int8]:
    labels = np.full((2, 8, 8), -1, np.int8)
    edge = scene.image.shape[0] // 8 * 8
    for thing, mask in zip(scene.things, scene.masks, strict=True):
        share = mask[:edge, :edge].reshape(8, edge // 8, 8, edge // 8).mean((1, 3))
        labels[0][share > 0.3] = PATCH_NAMES.index(thing.kind)
        labels[1][share > 0.3] = COLOR_NAMES.index(thing.color)
    return labels


def _made_up_words(rng: np.random.Generator) -> str:
    """Draw one to four words of random letters."""
    return " ".join(
        "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUVWY"), rng.integers(2, 8))) for _ in range(rng.integers(1, 5))
    )


def scene_rng(purpose: str, index: int, seed: int = 0) -> np.random.Generator:
    """Return the generator of one scene of one purpose, in the world of a seed."""
    return np.random.default_rng((PURPOSES[purpose], index, seed) if seed else (PURPOSES[purpose], index))


def scene_set(
    cache: Path,
    purpose: str,
    n: int,
    *,
    side: int,
    styles: tuple[str, ...] = STYLES,
    kinds: tuple[str, ...] = KINDS,
    single: bool = False,
    sign_share: float = 0.0,
) -> SceneSet:
    """Render `n` scenes, or open them when they have been rendered before.

    Args:
        cache: Folder that holds rendered sets.
        purpose: One of `PURPOSES`; decides the seeds.
        n: Number of scenes.
        side: Width and height in pixels.
        styles: Styles to draw from.
        kinds: Kinds to draw from.
        single: One thing a scene, instead of one to three.
        sign_share: Share of scenes that also show a sign with made-up words.
    """
    name = "-".join([purpose, str(n), str(side), "".join(s[0] for s in styles), str(len(kinds)), str(int(single))])
    name += f"-signs{round(100 * sign_share)}" if sign_share else ""
    folder = cache / name
    if not folder.exists():
        partial = cache / f"{name}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        images = np.lib.format.open_memmap(partial / "images.npy", "w+", np.uint8, (n, side, side, 3))
        patches = np.full((n, 2, 8, 8), -1, np.int8)
        rows = []
        counts = (1.0, 0.0, 0.0) if single else (0.5, 0.35, 0.15)
        for i in range(n):
            rng = scene_rng(purpose, i)
            words = _made_up_words(rng) if sign_share and rng.random() < sign_share else ""
            spec = draw_spec(rng, kinds=kinds, styles=styles, counts=counts, sign_text=words)
            scene = render(spec, rng, side=side)
            images[i], patches[i] = scene.image, _patch_labels(scene)
            things = [asdict(t) for t in scene.things]
            rows.append([things, scene.surface, scene.style, scene.caption])
        images.flush()
        np.save(partial / "patches.npy", patches)
        (partial / "scenes.json").write_text(json.dumps(rows))
        shutil.move(partial, folder)  # named last, so its existence means the set is whole
    images = np.load(folder / "images.npy", mmap_mode="r")
    no_masks = np.zeros((0, side, side), bool)
    scenes = [
        Scene(
            image=images[i],
            things=tuple(Thing(**{**t, "box_xyxy": tuple(t["box_xyxy"])}) for t in things),
            surface=surface,
            style=style,
            caption=text,
            masks=no_masks,
        )
        for i, (things, surface, style, text) in enumerate(json.loads((folder / "scenes.json").read_text()))
    ]
    return SceneSet(images=images, patches=np.load(folder / "patches.npy"), scenes=scenes)
