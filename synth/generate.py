"""Generate images where the dataset is thin: from words, along the edges of real images, or into benign ones."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import field
from itertools import groupby

import numpy as np

from tilth import models
from tilth.claims import Claim, Json
from tilth.engine import batched
from tilth.errors import InputError
from tilth.geometry import Box
from tilth.images import Image, resize
from tilth.samples import NewSample, Sample
from tilth.steps import Facts, fingerprint, step
from tilth.synth.pipelines import Drawing, Studio, blank
from tilth.synth.prompts import Request, requests, shares
from tilth.synth.provenance import png_with_provenance
from tilth.synth.safety import refuse
from tilth.work import Failed, Work

METHODS = ("text", "edges", "inpaint")
HOLE = 0.16  # part of a crop's side that stays untouched around the hole


@step
class Generate:
    """Generate images of the categories that have the fewest labels.

    Generated images help while real ones are scarce and hurt once they outnumber them several times, so `max_ratio` bounds
    them (He et al. 2023, https://arxiv.org/abs/2210.07574; Azizi et al. 2023, https://arxiv.org/abs/2304.08466).

    Args:
        model: Stable Diffusion checkpoint.
        controlnet: ControlNet for edges; empty for none.
        loras: Style -> adapter that draws it.
        count: Images wanted in all.
        max_ratio: Most generated images for one real, labelled training image.
        methods: Share of each method: text, edges, inpaint.
        template: Prompt with `{thing}`, `{style}` and names of `fillings` in braces.
        fillings: Choices for the names in the template.
        styles: Styles to draw from.
        negative_prompt: What to steer away from.
        steps: Denoising steps.
        guidance: Guidance scale.
        batch_size: Images drawn at once.
        licence: Of the generated images.
    """

    model: str = "starter:diffusion"
    controlnet: str = ""
    loras: dict[str, str] = field(default_factory=dict)
    count: int = 100
    max_ratio: float = 1.0
    methods: dict[str, float] = field(default_factory=lambda: {"text": 1.0})
    template: str = "a {color} {thing} {surface}, {style} style"
    fillings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    styles: tuple[str, ...] = ("photo",)
    negative_prompt: str = ""
    steps: int = 20
    guidance: float = 3.0
    batch_size: int = 16
    licence: str = "generated"

    def __post_init__(self) -> None:
        """Check the settings, and refuse what is never generated."""
        if unknown := set(self.methods) - set(METHODS):
            raise ValueError(f"methods must be among {', '.join(METHODS)}, got {', '.join(sorted(unknown))}")
        if not self.methods or min(self.methods.values()) < 0 or sum(self.methods.values()) <= 0:
            raise ValueError(f"methods need shares above 0, got {self.methods}")
        if self.methods.get("edges") and not self.controlnet:
            raise ValueError("the method 'edges' needs a controlnet")
        if self.count < 1 or self.batch_size < 1 or self.steps < 1:
            raise ValueError("count, batch_size and steps must be at least 1")
        choices = " ".join(value for values in self.fillings.values() for value in values)
        told = {"template": self.template, "negative prompt": self.negative_prompt, "fillings": choices}
        try:
            refuse(told | {"styles": " ".join(self.styles), "loras": " ".join(self.loras)})
        except InputError as error:
            raise ValueError(str(error)) from error

    def models(self) -> tuple[str, ...]:
        """Name all checkpoints."""
        return tuple(name for name in (self.model, self.controlnet, *self.loras.values()) if name)

    def run(self, work: Work) -> Facts:
        """Plan once, then draw whatever is not drawn yet."""
        plan = self._plan(work)
        key = fingerprint(self, str(work.seed), hashlib.sha256(json.dumps([vars(r) for r in plan]).encode()).hexdigest())
        done = work.added(key)
        began = time.monotonic()
        maker = _Maker(self, work, plan)
        counts = work.add(key, maker.make(done), total=len(plan), starts_at=done)
        seconds = time.monotonic() - began
        made = len(plan) - done
        return {
            "made": counts.get("ok", 0), "failed": counts.get("failed", 0), "planned": len(plan),
            "by_category": dict(Counter(r.category for r in plan)), "by_style": dict(Counter(r.style for r in plan)),
            "by_method": dict(Counter(maker.method(r) for r in plan)),
            "seconds_per_image": round(seconds / made, 3) if made else None,
        }  # fmt: skip

    def _plan(self, work: Work) -> list[Request]:
        """Decide what to make; kept in the step's folder, as the dataset may move on."""
        path = work.folder / "plan.json"
        if path.exists():
            return [Request(**row) for row in json.loads(path.read_text())]
        categories = {c.name: c for c in work.policy.pictured if c.name != "text_area"}
        have: Counter[str] = Counter()
        real = 0
        for sample in work.dataset.samples(_trainable, images=False):
            have.update(sample.truth.categories & categories.keys())
            real += bool(sample.truth.labels)
        wanted = min(self.count, int(self.max_ratio * real))
        counts = shares(wanted, have, list(categories))
        plan = list(requests(
            counts, categories, template=self.template, fillings=self.fillings, styles=self.styles, seed=work.seed
        ))  # fmt: skip
        for request in plan:
            refuse({"prompt": request.prompt, "category": request.category})
        # neighbours share method and adapter, so that they can be drawn in one batch
        plan.sort(key=lambda r: (self._method(r), r.style if r.style in self.loras else "", r.number))
        work.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([vars(r) for r in plan]))
        return plan

    def _method(self, request: Request) -> str:
        total = sum(self.methods.values())
        place = np.random.default_rng(request.seed).random() * total
        for name, share in self.methods.items():
            place -= share
            if place < 0:
                return name
        return next(iter(self.methods))


def _trainable(sample: Sample) -> bool:
    return sample.split != "test" and not sample.made


class _Maker:
    """Draws the plan in batches, lazily."""

    def __init__(self, step_: Generate, work: Work, plan: Sequence[Request]) -> None:
        self.step, self.work, self.plan = step_, work, plan
        self.digest = models.digest(step_.model)

    def method(self, request: Request) -> str:
        """Return how a request is drawn."""
        return self.step._method(request)

    def make(self, done: int) -> Iterator[NewSample | Failed]:
        """Yield the images after the first `done` ones; the models are loaded only if there is one."""
        todo = self.plan[done:]
        if not todo:
            return
        studio = Studio(self.step.model, self.step.controlnet, self.step.loras, self.work.device)
        drawing = Drawing(steps=self.step.steps, guidance=self.step.guidance, negative_prompt=self.step.negative_prompt)
        for (method, adapter), group in groupby(todo, key=lambda r: (self.method(r), r.style if r.style in self.step.loras else "")):
            for batch in batched(group, self.step.batch_size):
                yield from self._batch(studio, drawing, method, adapter, batch)

    def _batch(
        self, studio: Studio, drawing: Drawing, method: str, adapter: str, batch: Sequence[Request]
    ) -> Iterator[NewSample | Failed]:
        prompts, seeds = [r.prompt for r in batch], [r.seed for r in batch]
        parents: list[Sample | None] = [None] * len(batch)
        boxes: list[Box | None] = [None] * len(batch)
        if method == "text":
            images = studio.from_text(prompts, seeds, drawing, adapter)
        else:
            found = [self._parent(r, method) for r in batch]
            if any(p is None for p in found):
                missing = [r for r, p in zip(batch, found, strict=True) if p is None]
                yield from (Failed(name=f"request {r.number}", error=f"no real image to start from for {r.category}") for r in missing)
                pairs = [(r, p) for r, p in zip(batch, found, strict=True) if p is not None]
                if not pairs:
                    return
                batch, found = [r for r, _ in pairs], [p for _, p in pairs]
                prompts, seeds = [r.prompt for r in batch], [r.seed for r in batch]
            parents = list(found)
            images, boxes = self._from_parents(studio, drawing, method, adapter, batch, [p for p in found if p is not None])
        for request, image, parent, box in zip(batch, images, parents, boxes, strict=True):
            if why := blank(image):
                yield Failed(name=f"request {request.number}", error=why)
                continue
            yield self._sample(request, method, adapter, image, parent, box)

    def _from_parents(
        self, studio: Studio, drawing: Drawing, method: str, adapter: str, batch: Sequence[Request], parents: Sequence[Sample]
    ) -> tuple[list[Image], list[Box | None]]:
        prompts, seeds = [r.prompt for r in batch], [r.seed for r in batch]
        pixels = [resize(p.pixels(), (studio.side, studio.side)) for p in parents]
        if method == "edges":
            return studio.along_edges(prompts, seeds, pixels, drawing, adapter), [None] * len(batch)
        low, high = round(HOLE * studio.side), round((1 - HOLE) * studio.side)
        hole = np.zeros((studio.side, studio.side), np.uint8)
        hole[low:high, low:high] = 255
        images = studio.into_holes(prompts, seeds, pixels, [hole] * len(batch), drawing, adapter)
        return images, [(float(low), float(low), float(high), float(high))] * len(batch)

    def _parent(self, request: Request, method: str) -> Sample | None:
        """Choose a real training image: for edges one that shows the category, for inpainting one that shows nothing."""
        chosen = self._parents(request.category if method == "edges" else "")
        if not chosen:
            return None
        id_ = chosen[request.seed % len(chosen)]
        return self.work.dataset.read([id_])[0]

    def _parents(self, category: str) -> list[str]:
        known: dict[str, list[str]] = self.__dict__.setdefault("_known", {})
        if category not in known:
            ids = []
            for sample in self.work.dataset.samples(_trainable, images=False):
                truth = sample.truth
                if len(truth.labels) == 1 and truth.categories == {category} if category else truth.state == "confirmed_empty":
                    ids.append(sample.id)
            known[category] = sorted(ids)
        return known[category]

    def _sample(
        self, request: Request, method: str, adapter: str, image: Image, parent: Sample | None, box: Box | None
    ) -> NewSample:
        origin: dict[str, Json] = {
            "source": f"{self.work.name}/{request.number}", "licence": self.step.licence, "step": self.work.name,
            "model": self.step.model, "model_digest": self.digest, "prompt": request.prompt,
            "negative_prompt": self.step.negative_prompt, "seed": request.seed, "method": method,
            "adapters": [self.step.loras[adapter]] if adapter else [], "controlnet": self.step.controlnet if method == "edges" else "",
            "steps": self.step.steps, "guidance": self.step.guidance, "category": request.category, "style": request.style,
            "parents": [parent.id] if parent else [],
        }  # fmt: skip
        claim = Claim(category=request.category, box_xyxy=box, score=0.5, source=f"synth:{self.work.name}")
        # The split of its parent holds for the child; a child of nobody may only be trained on.
        split = parent.split if parent and parent.split else "train"
        return NewSample(
            data=png_with_provenance(image, origin), origin=origin, claims=(claim,),
            columns={"split": split, "style": request.style},
        )  # fmt: skip
