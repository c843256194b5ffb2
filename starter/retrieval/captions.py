"""What one may ask of an image in words, as data: things by colour and name, surface and style; and if it is so."""

from dataclasses import dataclass, replace

import numpy as np

from tilth.starter.grounding.tokenizer import NAMES
from tilth.starter.world.scene import COLORS, KINDS, STYLES, Scene, article
from tilth.starter.world.surfaces import SURFACES


@dataclass(frozen=True, kw_only=True)
class Request:
    """All of this must be so; empty means any. `things` holds `(color, kind)`."""

    things: tuple[tuple[str, str], ...] = ()
    surface: str = ""
    style: str = ""

    def holds(self, scene: Scene) -> bool:
        """Say whether a scene shows what is asked for.

        >>> from tilth.starter.world.scene import Spec, render
        >>> spec = Spec(things=(("knife", "red", ""),), surface="wood", style="neon")
        >>> scene = render(spec, np.random.default_rng(0), side=64)
        >>> [Request(things=((color, "knife"),)).holds(scene) for color in ("", "red", "blue")]
        [True, True, False]
        """
        for color, kind in self.things:
            if not any(t.kind == kind and color in ("", t.color) for t in scene.things):
                return False
        return self.surface in ("", scene.surface) and self.style in ("", scene.style)


def say(request: Request, rng: np.random.Generator) -> str:
    """Put a request into words: usual names or others, plainly or as `a photo of …`."""
    names = []
    for color, kind in request.things:
        others = NAMES[kind][1:]
        name = str(rng.choice(others)) if others and rng.random() < 0.35 else kind
        names.append(article(f"{color} {name}".strip()))
    text = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""
    if len(names) == 1 and not request.style:
        opening = rng.random()
        if opening < 0.1:
            text = text.split(" ", 1)[1]
        elif opening < 0.3:
            text = str(rng.choice(["a photo of ", "a picture of "])) + text
    place = SURFACES[request.surface] if request.surface else ""
    text = f"{text} {place}".strip()
    style = f"{request.style} style" if request.style else ""
    return ", ".join(part for part in (text, style) if part)


def draw_request(scene: Scene, rng: np.random.Generator) -> Request:
    """Draw something that is true of a scene: mostly one thing, sometimes all there is."""
    things = [(t.color, t.kind) for t in scene.things]
    chance = rng.random()
    if chance < 0.1 or not things:
        return Request(things=tuple(things), surface=scene.surface, style=scene.style)
    if chance < 0.16:
        only_style = rng.random() < 0.5
        return Request(style=scene.style if only_style else "", surface="" if only_style else scene.surface)
    count = 2 if len(things) > 1 and chance > 0.88 else 1
    chosen = [things[i] for i in rng.permutation(len(things))[:count]]
    return Request(
        things=tuple((color if rng.random() < 0.6 else "", kind) for color, kind in chosen),
        surface=scene.surface if rng.random() < 0.1 else "",
        style=scene.style if rng.random() < 0.12 else "",
    )


def near_miss(request: Request, scene: Scene, rng: np.random.Generator) -> Request:
    """Change one word of a request that holds for a scene, so that it no longer does: a colour, a kind, a place or a style.

    >>> from tilth.starter.world.scene import Spec, render
    >>> scene = render(Spec(things=(("knife", "red", ""),), surface="wood", style="neon"), np.random.default_rng(0), side=64)
    >>> wrong = near_miss(Request(things=(("red", "knife"),)), scene, np.random.default_rng(0))
    >>> wrong.holds(scene), len(wrong.things)
    (False, 1)
    """
    while True:
        if request.things and rng.random() < 0.85:
            at = int(rng.integers(len(request.things)))
            color, kind = request.things[at]
            if color and rng.random() < 0.6:
                color = str(rng.choice(list(COLORS)))
            else:
                kind = str(rng.choice(list(KINDS)))
            wrong = replace(request, things=(*request.things[:at], (color, kind), *request.things[at + 1 :]))
        elif request.surface:
            wrong = replace(request, surface=str(rng.choice(list(SURFACES))))
        else:
            wrong = replace(request, style=str(rng.choice(STYLES)))
        if not wrong.holds(scene):
            return wrong
