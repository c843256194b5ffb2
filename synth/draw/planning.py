"""From what a dataset holds to what will be drawn: how many of which category and style, in which words, from which parents."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tilth.data.where import one_of
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.geometry import Box
from tilth.policy import Category
from tilth.samples import Sample
from tilth.synth.draw.lengths import Encoder
from tilth.synth.draw.pairs import PAIRED, drawn_in_pairs, grown_in, look_alikes
from tilth.synth.draw.settings import Drawing, Parts, Pasting
from tilth.synth.plan.again import Tried
from tilth.synth.plan.places import detail_of, within
from tilth.synth.plan.plan import Plan
from tilth.synth.plan.prompts import Request, Words, in_turn, shares
from tilth.synth.plan.survey import DRAWN_INTO, Survey, frame_around, look_alike_in, said_of, take_stock
from tilth.synth.safety.refusals import examine, refuse

METHODS = ("text", "edges", "inpaint", "image", "insert", "replace", "paste")
HOLE_SIDE = (0.5, 0.75)  # of the image's: large enough for one thing, small enough to leave the place recognisable
TRIES = 8  # parents that are looked at for one request before it is made from words alone
PLACES = 8  # of which the one with the least in it is drawn into


class Planner:
    """Decides what to draw.

    Args:
        work: The dataset that is counted and that parents are taken from; its seed decides all that is random.
        categories: Those asked for.
        left_out: Those of them that are never generated, with the reason.
        words: What prompts are made of.
        drawing: Whose negative prompt goes with each.
        parts: Whose adapters draw styles.
        methods: Share of each method.
        pasting: How large what is pasted may be.
        encoders: Of the model that will read the prompts; none where it is not here yet.
        again: Step whose rejected images are made up for, instead of what is thin being filled; empty for none.

    Raises:
        InputError: A method needs look-alikes, and a category has none that may be drawn.
    """

    def __init__(
        self,
        work: Work,
        categories: Mapping[str, Category],
        *,
        left_out: Mapping[str, str],
        words: Words,
        drawing: Drawing,
        parts: Parts,
        methods: Mapping[str, float],
        pasting: Pasting,
        encoders: Sequence[Encoder] = (),
        again: str = "",
    ) -> None:
        self._work, self._left_out = work, dict(left_out)
        self._categories = {name: category for name, category in categories.items() if name not in left_out}
        self._words, self._drawing, self._adapter = words, drawing, parts.adapter
        self._methods, self._encoders, self._pasting = methods, encoders, pasting
        self._look_alikes = look_alikes(words, self._categories.values()) if drawn_in_pairs(methods) else {}
        self._again, self._tried = again, Tried(())
        self._stock = Survey()
        self._parents: dict[tuple[str, str], list[str]] = {}
        self._read: dict[str, Sample] = {}  # parents, without their images
        self._said: dict[str, str] = {}  # what came with them, in words
        self._detail: dict[tuple[str, str], npt.NDArray[np.float32]] = {}  # how much there is in each part of a scene
        self._refused = self._orphans = self._shortened = 0
        self._fits = lru_cache(maxsize=4096)(self._read_whole)

    def plan(self, styles: Sequence[str], *, count: int, per_category: int, max_ratio: float) -> Plan:
        """Count what is there, share the images out so that the thinnest are filled first, and write each request.

        Args:
            styles: To draw from.
            count: Images in all.
            per_category: Images of each category instead, when above 0.
            max_ratio: Most generated images for one real one.

        Raises:
            InputError: What is to be made up for was not judged yet.
        """
        samples = self._work.dataset.samples(one_of("split", ("", "train")), images=False)
        replaced = self._look_alikes if self._methods.get("replace") else {}
        stock = self._stock = take_stock(samples, self._categories, replaced)
        made = self._work.dataset.samples("made and split != 'test'", images=False, dropped=True)
        self._tried = Tried(made, self._again)
        if self._again and self._tried.unjudged:
            told = f"{self._tried.unjudged:,} images of {self._again!r} were not judged yet"
            raise InputError(f"{self._work.name}: {told}; put 'ground' and 'adherence' before this step")
        cells = [(category, style) for category in self._categories for style in styles]
        wanted = per_category * len(self._categories) or count
        if self._again:
            wanted = self._tried.lacking(wanted, cells).total()
        room = min(wanted, max(0, int(max_ratio * stock.real) - stock.made))
        numbers = self._numbers(room) if cells else []
        if self._again:
            counts = self._tried.lacking(len(numbers), cells)
        else:
            counts = shares(len(numbers), {} if per_category else stock.labels, cells)
        planned = zip(numbers, in_turn(counts), strict=True)
        requests = [request for number, cell in planned for request in self._requests(number, *cell)]
        # Neighbours share method and adapter, so that they can be drawn in one batch.
        requests.sort(key=lambda r: (METHODS.index(r.method), self._adapter(r.style), r.number))
        return Plan(
            requests=requests,
            wanted=wanted,
            real=stock.real,
            made=stock.made,
            max_ratio=max_ratio,
            there=[(*cell, stock.labels[cell]) for cell in dict.fromkeys([*sorted(stock.labels), *cells])],
            left_out=self._left_out,
            refused=self._refused,
            orphans=self._orphans,
            shortened=self._shortened,
            room=room,
        )

    def _numbers(self, room: int) -> list[int]:
        """Number the requests that there is room for: an edited pair takes the numbers of two images."""
        found, next_ = list[int](), 0
        while next_ < room:
            images = 2 if self._chance(next_)[0] in PAIRED else 1
            if next_ + images > room:
                break
            found.append(next_)
            next_ += images
        return found

    def _chance(self, number: int) -> tuple[str, np.random.Generator]:
        """Draw the method of a request; return it with the generator of all else that is random in it."""
        rng = np.random.default_rng((self._work.seed, number))
        total = sum(self._methods.values())
        return str(rng.choice(list(self._methods), p=[share / total for share in self._methods.values()])), rng

    def _requests(self, number: int, category: str, style: str) -> list[Request]:
        """Plan one image, or an edited pair; it depends on the seed and its number alone."""
        method, rng = self._chance(number)
        seed = int(rng.integers(2**31))
        parent = donor = ""
        hole = box = None
        if method != "text":
            parent, box = self._parent(method, category, style, rng)
            if parent and method == "paste":
                donor, box = self._parent("edges", category, style, rng)
            if not parent or (method == "paste" and not donor):
                method, parent, box, self._orphans = "text", "", None, self._orphans + 1
            if method in DRAWN_INTO:
                hole = _hole(rng, HOLE_SIDE) if method == "inpaint" else self._free_place(method, parent, rng)
        image = Request(
            number=number, category=category, style=style, method=method, prompt="", seed=seed, parent=parent, hole=hole,
            box_xyxy=box if method in ("replace", "paste") else None, donor=donor,
        )  # fmt: skip
        if method == "paste":
            return [image]
        asked = self._categories[category]
        if method not in PAIRED:
            return [self._worded(image, *self._tried.new(category, lambda: self._written(image, rng)))]
        # both are drawn, from the same noise: were one of them a photograph, how it was made would tell them apart
        name = hashlib.sha256(f"{parent} {seed} {number}".encode()).hexdigest()[:16]
        instead = str(rng.choice(list(self._look_alikes[category])))
        thing = replace(image, pair=name)
        written: list[str] = []

        def write() -> tuple[str, bool]:
            liked = self._tried.liked(category)
            written[:], cut = self._words.write_pair(asked, instead, style, rng, fits=self._fits, liked=liked)
            return written[0], cut

        _, cut = self._tried.new(category, write)
        both = (thing, replace(thing, number=number + 1, instead=instead))
        return [self._worded(each, prompt, cut) for each, prompt in zip(both, written, strict=True)]

    def _written(self, image: Request, rng: np.random.Generator) -> tuple[str, bool]:
        """Write the prompt of a request; return it and whether it was shortened."""
        return self._words.write(
            self._categories[image.category], image.style, rng, inpaint=image.method == "inpaint",
            fits=self._fits, liked=self._tried.liked(image.category),
        )  # fmt: skip

    def _worded(self, image: Request, prompt: str, cut: bool) -> Request:
        """Put words into a request, unless they are refused."""
        self._shortened += cut
        # what is steered away from for the thing's sake may be the look-alike itself
        category = "" if image.instead else image.category
        negative = self._words.negative(category, image.style, self._drawing.negative_prompt)
        refuse({"prompt": prompt, "negative prompt": negative, "category": image.category})
        return replace(image, prompt=prompt, negative=negative)

    def _free_place(self, method: str, parent: str, rng: np.random.Generator) -> Box:
        """Choose, of some places in an image, the one with the least in it."""
        if (method, parent) not in self._detail:
            [sample] = self._work.dataset.read([parent])
            shape = self._drawing.size_wh if any(self._drawing.size_wh) else (1, 1)
            frame = frame_around(sample.size_wh, None, sample.size_wh if method == "paste" else shape)
            self._detail[method, parent] = detail_of(sample.pixels(), frame)
        sides = self._pasting.sides if method == "paste" else HOLE_SIDE
        places = [_hole(rng, sides) for _ in range(PLACES)]
        return min(places, key=lambda place: within(self._detail[method, parent], place))

    def _read_whole(self, prompt: str) -> bool:
        return not self._encoders or any(each.tokens(prompt) <= each.limit for each in self._encoders)

    def _parent(self, method: str, category: str, style: str, rng: np.random.Generator) -> tuple[str, Box | None]:
        """Choose an image to start from, and where in it the thing or its look-alike is, if that matters."""
        kind = (method, "" if method in DRAWN_INTO else category)
        if kind not in self._parents:
            self._parents[kind] = self._stock.parents(method, category)
        ids = self._parents[kind]
        for _ in range(min(TRIES, len(ids))):
            id_ = ids[int(rng.integers(len(ids)))]
            if id_ not in self._read:
                sample = self._work.dataset.read([id_])[0]
                self._read[id_], self._said[id_] = replace(sample, data=b""), said_of(sample)
            told = {"reference": self._said[id_], "category": category, "style": style}
            if examine(told) is not None:
                self._refused += 1
                continue
            sample = self._read[id_]
            box = sample.truth.labels[0].box_xyxy if sample.truth.labels else None
            if method != "replace":
                return id_, box
            box = box or look_alike_in(sample, self._look_alikes[category])
            if box and (grown := grown_in(sample.size_wh, box)):
                return id_, grown
        return "", None


def _hole(rng: np.random.Generator, sides: tuple[float, float]) -> Box:
    """Draw a box in parts of the image's side."""
    width, height = rng.uniform(*sides, 2)
    left, top = rng.uniform(0.05, 0.95 - width), rng.uniform(0.05, 0.95 - height)
    return float(left), float(top), float(left + width), float(top + height)
