"""Draw a plan in batches, lazily, and turn each drawing into a sample that says where it comes from."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from tilth import models
from tilth.claims import Claim, Json
from tilth.data.where import STYLE
from tilth.engine.intake import Failed
from tilth.engine.job import batched
from tilth.engine.work import Work
from tilth.geometry import Box, clip
from tilth.images import Image
from tilth.origins.packet import COMPOSITE, MADE
from tilth.samples import NewSample, Sample
from tilth.synth.draw.lengths import encoders, refuse_long
from tilth.synth.draw.pipelines import Drawn, Studio, weights_of
from tilth.synth.draw.settings import Drawing, Files, Parts
from tilth.synth.plan.prompts import Request
from tilth.synth.plan.survey import frame_around, said_of
from tilth.synth.safety.provenance import licence_of_all
from tilth.synth.safety.refusals import refuse, version

BELIEF = 0.5  # score of a claim that only says what was asked for


class Maker:
    """Draws the requests of a plan.

    Args:
        work: The dataset that parents are read from.
        plan: Sorted so that requests of one method and adapter are neighbours.
        key: Names the plan; every sample keeps it.
        model: Name of the checkpoint that draws.
        parts: What is added to it.
        drawing: How to draw.
        files: How to write it.
        licence: Of what is drawn; when empty, that of the model. A parent's joins it, and an adapter's that says so.
        called: Name of each adapter that an earlier step left, by its folder.
    """

    def __init__(
        self,
        work: Work,
        plan: Sequence[Request],
        key: str,
        *,
        model: str,
        parts: Parts,
        drawing: Drawing,
        files: Files,
        licence: str = "",
        called: Mapping[str, str] | None = None,
    ) -> None:
        self.work, self.plan, self.key = work, plan, key
        self.model, self.parts, self.drawing = model, parts, drawing
        self._writer = files.writer()
        self.licence = licence or models.spec(model).licence
        self._weights = {name: weights_of(name) for name in (model, *parts.names)}
        for folder, name in (called or {}).items():
            self._weights[folder] |= {"name": name}

    def make(self, done: int) -> Iterator[NewSample | Failed]:
        """Yield what comes after the first `done` requests; the models are loaded only if there is anything.

        Batches are cut from the whole plan, so that a run that was killed draws each image in the company of the same
        others, and gets the same pixels to the last bit.
        """
        studio: Studio | None = None
        start = 0
        for batch in self._batches():
            skip = max(0, done - start)
            start += len(batch)
            if skip >= len(batch):
                continue
            if studio is None:  # all of the plan, before the first batch
                told: dict[str, list[str]] = {"negative prompt": [self.drawing.negative_prompt]}
                for request in self.plan:
                    told["negative prompt"].append(request.negative)
                    told.setdefault(f"prompts of {request.category}", []).append(request.prompt)
                refuse_long(told, encoders(self.model), self.model)
            studio = studio or Studio(self.model, self.parts, drawing=self.drawing, device=self.work.device)
            yield from self._draw(studio, batch)[skip:]

    def _batches(self) -> Iterator[list[Request]]:
        for _, group in groupby(self.plan, key=lambda r: (r.method, self.parts.adapter(r.style))):
            yield from batched(group, self.drawing.batch_size)

    def _draw(self, studio: Studio, batch: Sequence[Request]) -> list[NewSample | Failed]:
        method, adapter = batch[0].method, self.parts.adapter(batch[0].style)
        prompts, seeds, negatives = [r.prompt for r in batch], [r.seed for r in batch], [r.negative for r in batch]
        parents = self.work.dataset.read([r.parent for r in batch]) if method != "text" else [None] * len(batch)
        for request, parent in zip(batch, parents, strict=True):
            told = {
                "prompt": request.prompt,
                "negative prompt": request.negative,
                "category": request.category,
            }
            refuse(told | ({"reference": said_of(parent)} if parent else {}))
        drawn: list[Drawn]
        boxes: list[Box | None] = [None] * len(batch)
        if method == "text":
            drawn = studio.from_text(prompts, seeds, self.drawing, adapter, negatives)
        else:
            frames = [_framed(parent, studio.size_wh) for parent in parents if parent]
            references = [image for image, _ in frames]
            if method == "edges":
                boxes = [scaled(box, studio.size_wh) if box else None for _, box in frames]
                drawn = studio.along_edges(prompts, seeds, references, self.drawing, adapter, negatives)
            else:
                holes = [whole_pixels(request.hole, studio.size_wh) for request in batch if request.hole]
                boxes = list(holes)
                masks = [_mask(hole, studio.size_wh) for hole in holes]
                drawn = studio.into_holes(prompts, seeds, references, masks, self.drawing, adapter, negatives)
        return [
            Failed(name=f"request {request.number}", error=image)
            if isinstance(image, str)
            else self._sample(studio, request, image, parent, box)
            for request, image, parent, box in zip(batch, drawn, parents, boxes, strict=True)
        ]

    def _sample(
        self, studio: Studio, request: Request, image: Image, parent: Sample | None, box: Box | None
    ) -> NewSample:
        parts, drawing, adapter = self.parts, self.drawing, self.parts.adapter(request.style)
        control: Json = (
            {**self._weights[parts.controlnet], "scale": drawing.control_scale} if request.method == "edges" else None
        )
        adapters: list[Json] = [
            {**self._weights[name], "weight": weight}
            for name, weight in zip(parts.of_style(adapter), parts.weights(adapter), strict=True)
        ]
        origin: dict[str, Json] = {
            "source": f"{self.work.name}/{request.number:06d}",
            "step": self.work.name,
            "key": self.key,
            "licence": self.licence,
            "licence_of_model": models.spec(self.model).licence,
            "model": self.model,
            "model_digest": self._weights[self.model]["digest"],
            "method": request.method,
            "category": request.category,
            "style": request.style,
            "prompt": request.prompt,
            "negative_prompt": request.negative,
            "seed": request.seed,
            "steps": drawing.steps,
            "guidance": drawing.guidance,
            "scheduler": studio.scheduler,
            "strength": drawing.strength if request.method == "inpaint" else None,
            "size_wh": list(studio.size_wh),
            "adapters": adapters,
            "controlnet": control,
            "parents": [parent.id] if parent else [],
            "hole_xyxy": list(box) if box and request.method == "inpaint" else None,
            "refusals": version(),
            "digital_source_type": COMPOSITE if request.method == "inpaint" else MADE,
        }
        if parent:  # a part of it is in the child, or its outlines are
            own = str(parent.origin.get("licence") or "")
            origin |= {"licence_of_parent": own, "licence": licence_of_all(self.licence, own)}
        claim = Claim(
            category=request.category,
            box_xyxy=box,
            score=BELIEF,
            source=f"synth:{self.work.name}",
            evidence={"method": request.method},
            asked=(request.category,),
            policy=self.work.policy.tag,
        )
        # A child shares the split of its parent; a child of nobody is only ever trained on. Where the dataset has no
        # splits yet, the step that makes them keeps families together.
        split = {"split": parent.split if parent else "train"}
        return NewSample(
            data=self._writer.write(image, origin),
            origin=origin,
            claims=(claim,),
            columns={STYLE: request.style} | (split if split["split"] else {}),
        )


def _framed(parent: Sample, size_wh: tuple[int, int]) -> tuple[Image, Box | None]:
    """Cut the largest frame of a shape around the parent's only label; return it with the label's box in parts of its sides."""
    labels = parent.truth.labels
    box = labels[0].box_xyxy if labels else None
    left, top, wide, tall = frame_around(parent.size_wh, box, size_wh)
    image = parent.pixels()[top : top + tall, left : left + wide]
    if box is None:
        return image, None
    shifted = np.array([box], np.float64) - [left, top, left, top]
    x0, y0, x1, y1 = (clip(shifted, (wide, tall))[0] / [wide, tall, wide, tall]).tolist()
    return image, (x0, y0, x1, y1)


def scaled(box: Box | tuple[float, ...], size_wh: tuple[int, int]) -> Box:
    """Turn parts of the sides into pixels."""
    x0, y0, x1, y1 = (float(v * side) for v, side in zip(box, (*size_wh, *size_wh), strict=True))
    return x0, y0, x1, y1


def whole_pixels(box: Box | tuple[float, ...], size_wh: tuple[int, int]) -> Box:
    """Turn parts of the sides into whole pixels."""
    x0, y0, x1, y1 = (float(round(v)) for v in scaled(box, size_wh))
    return x0, y0, x1, y1


def _mask(box: Box, size_wh: tuple[int, int]) -> Image:
    mask = np.zeros(size_wh[::-1], np.uint8)
    x0, y0, x1, y1 = (int(v) for v in box)
    mask[y0:y1, x0:x1] = 255
    return mask
