"""Draw a plan in batches, lazily, and turn each drawing into a sample that says where it comes from."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby

import numpy as np

from tilth import models
from tilth.claims import Claim, Json
from tilth.data.where import PAIR, STYLE
from tilth.engine.intake import Failed
from tilth.engine.job import batched
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.geometry import Box, clip
from tilth.images import Image
from tilth.origins.packet import COMPOSITE, MADE, PASTED
from tilth.samples import NewSample, Sample
from tilth.synth.draw.cutting import cut_out, paste
from tilth.synth.draw.lengths import encoders, refuse_long
from tilth.synth.draw.pipelines import Drawn, Studio, weights_of
from tilth.synth.draw.settings import STRENGTHS, Drawing, Files, Memory, Parts, Pasting
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
        memory: What is held where.
        pasting: How cut-outs are put into scenes.
        files: How to write it.
        licence: Of what is drawn; when empty, that of the model. A parent's joins it.
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
        memory: Memory,
        pasting: Pasting,
        files: Files,
        licence: str = "",
        called: Mapping[str, str] | None = None,
    ) -> None:
        self.work, self.plan, self.key = work, plan, key
        self.model, self.parts, self.drawing, self.memory, self.pasting = model, parts, drawing, memory, pasting
        self.at_once = drawing.batch_size  # images; less once there was no memory for so many
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
        start = 0
        for batch in self._batches():
            skip = max(0, done - start)
            start += len(batch)
            if skip >= len(batch):
                continue
            yield from self._made(batch)[skip:]

    @cached_property
    def _studio(self) -> Studio:
        """Load the models; before that, look at the words of the whole plan."""
        told: dict[str, list[str]] = {"negative prompt": [self.drawing.negative_prompt]}
        for request in self.plan:
            told["negative prompt"].append(request.negative)
            told.setdefault(f"prompts of {request.category}", []).append(request.prompt)
        refuse_long(told, encoders(self.model), self.model)
        return Studio(
            self.model, self.parts, drawing=self.drawing, memory=self.memory, device=self.work.device, tell=self._tell
        )

    def _tell(self, line: str) -> None:
        self.work.events.emit("memory", step=self.work.name, message=f"  {line}")

    def _batches(self) -> Iterator[list[Request]]:
        for _, group in groupby(self.plan, key=lambda r: (r.method, self.parts.adapter(r.style))):
            yield from batched(group, self.drawing.batch_size)

    def _made(self, batch: Sequence[Request]) -> list[NewSample | Failed]:
        method = batch[0].method
        parents = self._parents(batch)
        for request, images in zip(batch, parents, strict=True):
            told = {"prompt": request.prompt, "negative prompt": request.negative, "category": request.category}
            refuse(told | {f"reference {n}": said_of(parent) for n, parent in enumerate(images, 1)})
        if method == "paste":
            return [self._pasted(request, *images) for request, images in zip(batch, parents, strict=True)]
        drawn, boxes = self._draw(batch, [images[0] if images else None for images in parents])
        self.at_once = self._studio.at_once or self.at_once
        return [
            Failed(name=f"request {request.number}", error=image)
            if isinstance(image, str)
            else self._sample(request, image, images, box, self._how(request, box))
            for request, image, images, box in zip(batch, drawn, parents, boxes, strict=True)
        ]

    def _parents(self, batch: Sequence[Request]) -> list[list[Sample]]:
        """Read the real images that each image of a batch starts from: its scene, and the donor of a cut-out."""
        read = self.work.dataset.read
        scenes = read([r.parent for r in batch]) if batch[0].parent else []
        donors = read([r.donor for r in batch]) if batch[0].donor else []
        rows = [each for each in (scenes, donors) if each]
        return [list(row) for row in zip(*rows, strict=True)] if rows else [[] for _ in batch]

    def _draw(
        self, batch: Sequence[Request], parents: Sequence[Sample | None]
    ) -> tuple[list[Drawn], Sequence[Box | None]]:
        """Draw a batch; return the images, and where in each the thing, or its look-alike, was asked for."""
        studio, method, adapter = self._studio, batch[0].method, self.parts.adapter(batch[0].style)
        prompts, seeds, negatives = [r.prompt for r in batch], [r.seed for r in batch], [r.negative for r in batch]
        if method == "text":
            return studio.from_text(prompts, seeds, self.drawing, adapter, negatives), [None] * len(batch)
        size_wh = studio.size_wh
        frames = [
            _framed(parent, size_wh, request.box_xyxy)
            for request, parent in zip(batch, parents, strict=True)
            if parent is not None
        ]
        references = [image for image, _ in frames]
        if method in ("edges", "image"):
            draw = studio.along_edges if method == "edges" else studio.from_images
            boxes = [scaled(box, size_wh) if box else None for _, box in frames]
            return draw(prompts, seeds, references, self.drawing, adapter, negatives), boxes
        places = [
            box if request.method == "replace" else request.hole
            for request, (_, box) in zip(batch, frames, strict=True)
        ]
        holes = [whole_pixels(place, size_wh) for place in places if place]
        masks = [_mask(hole, size_wh) for hole in holes]
        return studio.into_holes(prompts, seeds, references, masks, self.drawing, adapter, negatives), holes

    def _pasted(self, request: Request, scene: Sample, donor: Sample) -> NewSample:
        """Cut the donor's thing out and put it into the scene; nothing is drawn."""
        if not (request.hole and request.box_xyxy):
            raise InputError(f"request {request.number}: a cut-out needs a box, and a place to go")
        thing, image = cut_out(donor.pixels(), request.box_xyxy), scene.pixels()
        place = whole_pixels(request.hole, (image.shape[1], image.shape[0]))
        made, box = paste(image, thing, place, self.pasting.blend)
        about: dict[str, Json] = {
            "mask": thing.by, "blend": self.pasting.blend, "size_wh": [image.shape[1], image.shape[0]],
            "digital_source_type": PASTED,
        }  # fmt: skip
        return self._sample(request, made, [scene, donor], box, about)

    def _how(self, request: Request, box: Box | None) -> dict[str, Json]:
        """Say how an image was drawn."""
        parts, drawing, adapter = self.parts, self.drawing, self.parts.adapter(request.style)
        into = request.method in STRENGTHS and request.method != "image"
        model = parts.inpainting if into and parts.inpainting else self.model
        nets: list[Json] = []
        for net in parts.nets if request.method == "edges" else ():
            pull: dict[str, Json] = {"scale": net.scale * drawing.control_scale}
            if not parts.controlnet:
                pull |= {"kind": net.kind, "start": net.start, "end": net.end}
                pull |= {"detector": self._weights[net.detector]} if net.detector else {}
            nets.append({**self._weights[net.net], **pull})
        adapters: list[Json] = [
            {**self._weights[name], "weight": weight}
            for name, weight in zip(parts.of_style(adapter), parts.weights(adapter), strict=True)
        ]
        return {
            "licence_of_model": models.spec(model).licence,
            "model": model,
            "model_digest": self._weights[model]["digest"],
            "prompt": request.prompt,
            "negative_prompt": request.negative,
            "seed": request.seed,
            "steps": drawing.steps,
            "guidance": drawing.guidance,
            "scheduler": self._studio.scheduler,
            "strength": drawing.strength_of(request.method),
            "size_wh": list(self._studio.size_wh),
            "adapters": adapters,
            "controlnet": nets[0] if parts.controlnet and nets else None,
            **({"controls": nets} if parts.controls and nets else {}),
            "hole_xyxy": list(box) if box and into else None,
            "digital_source_type": COMPOSITE if into else MADE,
        }

    def _sample(
        self, request: Request, image: Image, parents: Sequence[Sample], box: Box | None, about: dict[str, Json]
    ) -> NewSample:
        licence = self.licence if "model" in about else ""
        origin: dict[str, Json] = {
            "source": f"{self.work.name}/{request.number:06d}",
            "step": self.work.name,
            "key": self.key,
            "licence": licence,
            "method": request.method,
            "category": request.category,
            "style": request.style,
            "parents": [parent.id for parent in parents],
            "refusals": version(),
            **about,
            **({"pair": request.pair, "instead": request.instead} if request.pair else {}),
        }
        if parents:  # a part of each is in the child, or its outlines are
            own = [str(parent.origin.get("licence") or "") for parent in parents]
            # what was cut out and pasted is of its parents alone
            origin["licence_of_parent"] = own[0] if len(own) == 1 else licence_of_all(*own)
            origin["licence"] = licence_of_all(*([licence] if "model" in about else []), *own)
        # of a look-alike: what it stands for is not here
        harmless = bool(request.instead)
        claim = Claim(
            says="empty" if harmless else "label",
            category=None if harmless else request.category,
            box_xyxy=None if harmless else box,
            score=BELIEF,
            source=f"synth:{self.work.name}",
            evidence={"method": request.method},
            asked=(request.category,),
            policy=self.work.policy.tag,
        )
        # A child shares the split of its parent; a child of nobody is only ever trained on. Where the dataset has no
        # splits yet, the step that makes them keeps families together.
        split = {"split": parents[0].split if parents else "train"}
        return NewSample(
            data=self._writer.write(image, origin),
            origin=origin,
            claims=(claim,),
            columns={STYLE: request.style}
            | (split if split["split"] else {})
            | ({PAIR: request.pair} if request.pair else {}),
        )


def _framed(parent: Sample, size_wh: tuple[int, int], box: Box | None = None) -> tuple[Image, Box | None]:
    """Cut the largest frame of a shape around a box of the parent; return it with the box in parts of its sides.

    Args:
        parent: The image.
        size_wh: The shape.
        box: In the parent's pixels; that of its only label when None.
    """
    labels = parent.truth.labels
    box = box or (labels[0].box_xyxy if labels else None)
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
