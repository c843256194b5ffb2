"""How fast the words in images are read, and how many of them, beside rapidocr's default call with the same models.

    python benchmarks/reading.py

Most images that a service sees hold no words: here 60 of 100. Those are scenes of the starter world; the others hold one sign each. Three
quarters are squares of 320 to 640 pixels, a quarter are 1280 x 960, in which signs are small. Each image is read by both, one after the
other, by turns first and second, with as many threads; the first images are read before the clock runs. A word counts as read where it
stands in what was read, spaces aside. Signs that hang upside down or sideways are read as well, without the clock.
"""

import argparse
import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from figures import Figures, add_option

from tilth.images import Image, resize
from tilth.runtime.stages.graphs import usable_cores
from tilth.runtime.stages.reading import Reader
from tilth.starter.world.scene import draw_spec, render
from tilth.starter.world.texts import draw_text

SEED = 0
CATEGORIES = ("gambling_ad", "illicit_sale", "threat", None)
STYLES = ("photo", "cartoon", "sketch", "neon")
WARM = 4  # images that are read before the clock runs


@dataclass(frozen=True, kw_only=True)
class Case:
    """An image and the words in it."""

    image: Image
    words: tuple[str, ...]


def plain(rng: np.random.Generator, side: int, style: str) -> Image:
    """Draw a scene without a sign."""
    return render(draw_spec(rng, styles=(style,)), rng, side=side).image


def case(number: int, with_words: bool) -> Case:
    """Draw an image, the same for the same number."""
    rng = np.random.default_rng((SEED, number))
    style = STYLES[number % len(STYLES)]
    large = rng.random() < 0.25
    if not with_words:
        image = plain(rng, 960 if large else int(rng.choice([320, 480, 640])), style)
        return Case(image=resize(image, (1280, 960)) if large else image, words=())
    text = draw_text(rng, CATEGORIES[int(rng.integers(len(CATEGORIES)))])
    spec = draw_spec(rng, styles=(style,), sign_text=text)
    image = render(spec, rng, side=240 if large else int(rng.choice([320, 480, 640]))).image
    if large:
        whole = resize(plain(rng, 960, style), (1280, 960)).copy()
        x, y = int(rng.integers(0, 1280 - 240)), int(rng.integers(0, 960 - 240))
        whole[y : y + 240, x : x + 240] = image
        image = whole
    return Case(image=image, words=tuple(text.upper().split()))


def found(case: Case, read: str) -> int:
    """Count the words of an image that were read."""
    rest, count = "".join(read.upper().split()), 0
    for word in sorted(case.words, key=len, reverse=True):
        if word in rest:
            rest, count = rest.replace(word, " ", 1), count + 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--with-words", type=float, default=0.4, help="share of the images")
    add_option(parser)
    args = parser.parse_args()
    figures = Figures("reading", seeds=[SEED])
    from rapidocr import RapidOCR

    threads = usable_cores()
    theirs = RapidOCR(params={"Global.log_level": "error", "EngineConfig.onnxruntime.intra_op_num_threads": threads})
    rival = f"rapidocr {importlib.metadata.version('rapidocr')}, its default call"
    readers: dict[str, Callable[[Image], str]] = {
        "ours": Reader(threads=threads),
        "rapidocr": lambda image: " ".join(theirs(np.ascontiguousarray(image[:, :, ::-1])).txts or ()),
    }
    cases = [case(n, n < args.images * args.with_words) for n in range(args.images)]
    order = np.random.default_rng(SEED).permutation(len(cases))
    taken: dict[str, dict[bool, list[float]]] = {name: {True: [], False: []} for name in readers}
    right = dict.fromkeys(readers, 0)
    for turn, n in enumerate([*order[:WARM], *order]):
        for name in [*readers][:: 1 if turn % 2 else -1]:
            began = time.perf_counter()
            read = readers[name](cases[n].image)
            seconds = time.perf_counter() - began
            if turn >= WARM:
                taken[name][bool(cases[n].words)].append(seconds)
                right[name] += found(cases[n], read)
    words = sum(len(one.words) for one in cases)
    whole = {name: sum(map(sum, times.values())) for name, times in taken.items()}
    recall = {name: count / words for name, count in right.items()}
    turned = [Case(image=np.rot90(one.image, 1 + n % 3), words=one.words) for n, one in enumerate(cases) if one.words]
    sideways = {name: sum(found(one, reader(one.image)) for one in turned) / words for name, reader in readers.items()}
    figures.add("images", len(cases), "")
    figures.add("without_words", np.mean([not one.words for one in cases]), "share")
    figures.add("words", words, "")
    figures.add("speedup", whole["rapidocr"] / whole["ours"], "times", n=len(cases), rival=rival)
    for kind, name in ((True, "with_words"), (False, "without_words")):
        ratio = sum(taken["rapidocr"][kind]) / sum(taken["ours"][kind])
        figures.add(f"speedup_{name}", ratio, "times", n=len(taken["ours"][kind]), rival=rival)
        figures.add(f"ms_{name}.ours", 1000 * float(np.median(taken["ours"][kind])), "ms")
        figures.add(f"ms_{name}.rapidocr", 1000 * float(np.median(taken["rapidocr"][kind])), "ms", rival=rival)
    figures.add("recall.ours", recall["ours"], "share", n=words)
    figures.add("recall.rapidocr", recall["rapidocr"], "share", n=words, rival=rival)
    figures.add("recall_loss", 100 * (recall["rapidocr"] - recall["ours"]), "points", n=words, rival=rival)
    figures.add("recall_turned.ours", sideways["ours"], "share", n=words)
    figures.add("recall_turned.rapidocr", sideways["rapidocr"], "share", n=words, rival=rival)
    print(f"{whole['rapidocr'] / whole['ours']:.2f} times as fast; words {recall}, turned {sideways}")
    figures.write(args.results)


if __name__ == "__main__":
    main()
