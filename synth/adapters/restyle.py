"""Draw labelled images anew in a look that nobody has labelled: along their edges, so that their labels hold."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np

from tilth import models
from tilth.claims import Claim, Json
from tilth.data.where import STYLE, both, one_of
from tilth.engine.intake import Failed
from tilth.engine.job import batched
from tilth.engine.steps import Facts, fingerprint, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.geometry import Box, areas, clip
from tilth.images import Image, resize
from tilth.origins.packet import MADE
from tilth.samples import NewSample, Sample
from tilth.synth.adapters.colours import Colours, colours_of
from tilth.synth.draw.lengths import encoders, refuse_long
from tilth.synth.draw.making import BELIEF
from tilth.synth.draw.pipelines import Studio, weights_of
from tilth.synth.draw.settings import Drawing, Files, Parts
from tilth.synth.plan.survey import TRAINED_ON, frame_around, said_of
from tilth.synth.safety.provenance import licence_of_all
from tilth.synth.safety.refusals import examine, refuse, version

LOOKED_AT = 50  # images of the style, for its colours
CUT = 0.5  # an image is left out when less of one of its boxes stays in the frame


@step
class Restyle:
    """Draw labelled images anew in another style, along their edges; each has the labels of the image that it follows.

    For a look in which nobody has labelled anything, and in which no model can find things: what a drawing shows is known from its parent.
    Harmless images are drawn as well, and what was looked for in a parent and not there is known to be absent in the child.

    Args:
        style: What the look is called.
        parts: ControlNet for Canny edges, and the adapter that draws the style, as in
            `{controlnet: starter:controlnet, loras: {blueprint: train.lora}}`; without one, the model draws it from words alone.
        model: Stable Diffusion checkpoint.
        prompt: Words for all images, with `{style}`.
        where: Condition on the labelled training images that are drawn anew.
        most: Of these at most; those with the smallest ids, which is a fair draw.
        views: Drawings of each.
        colours: Condition on images of the style, such as `state = 'unlabelled'`: what the model's autoencoder changes of their colours is
            undone in the drawings; nothing is when empty.
        licence: Of what is drawn; when empty, that of the model. That of the parent joins it.
        drawing: How to draw, as in `{steps: 10, guidance: 1.0, size: 128}`.
        files: How what is drawn is written.
    """

    refers: ClassVar[tuple[str, ...]] = ("parts.loras",)

    style: str
    parts: Parts
    model: str = "starter:diffusion"
    prompt: str = "a {style}"
    where: str = ""
    most: int = 1000
    views: int = 1
    colours: str = ""
    licence: str = ""
    drawing: Drawing = field(default_factory=Drawing)
    files: Files = field(default_factory=Files)

    def __post_init__(self) -> None:
        """Check the settings, and refuse what is never generated."""
        if not self.style or not self.parts.controlnet:
            raise ValueError("name the style, and among the parts a controlnet whose edges the drawings follow")
        if self.most < 1 or self.views < 1:
            raise ValueError(f"most and views must be at least 1, got {self.most} and {self.views}")
        if strays := sorted(set(self.parts.loras) - {self.style}):
            raise ValueError(f"loras are by style; there is no style {', '.join(strays)}")
        try:
            adapters = " ; ".join(self.parts.of_style(self.style))
            words = {"style": self.style, "prompt": self.words, "negative prompt": self.drawing.negative_prompt}
            refuse({**words, "adapters": adapters, "model": self.model, "controlnet": self.parts.controlnet})
        except (InputError, KeyError, IndexError) as error:
            raise ValueError(f"prompt {self.prompt!r}: {error}") from error

    @property
    def words(self) -> str:
        """The prompt of all drawings."""
        return self.prompt.format(style=self.style)

    def models(self) -> tuple[str, ...]:
        """Name all checkpoints."""
        return (self.model, *self.parts.names)

    def run(self, work: Work) -> Facts:
        """Draw whatever is not drawn yet.

        Raises:
            InputError: No labelled image may be drawn anew.
        """
        parts, called = self.parts.placed(work.artifact)
        parts.refuse(self.model)
        refuse_long({"prompt": [self.words]}, encoders(self.model), self.model)
        parents, left_out = self._parents(work)
        if not parents:
            raise InputError(f"{work.name}: no labelled training image to draw anew; import or review some first")
        wanted = [(id_, view) for view in range(self.views) for id_ in parents]
        taught = [models.digest(folder) for folder in called]
        key = fingerprint(self, str(work.seed), hashlib.sha256(",".join(parents).encode()).hexdigest(), *taught)
        done, began = work.added(key), time.monotonic()
        weights = {name: weights_of(name) for name in (self.model, *parts.names)}
        for folder, name in called.items():
            weights[folder] |= {"name": name}
        drawings = _Drawings(step=self, work=work, parts=parts, weights=weights, key=key).after(done, wanted)
        counts = work.add(key, drawings, total=len(wanted), starts_at=done, commit_rows=self.drawing.batch_size)
        seconds, drawn = time.monotonic() - began, len(wanted) - done
        failures = work.dataset.table(f"{work.name}-{key}").failures()
        return {
            "made": counts.get("ok", 0),
            "failed": counts.get("failed", 0),
            "planned": len(wanted),
            "parents": len(parents),
            "left_out": dict(left_out),
            "failures": dict(Counter(reason.partition(": ")[2] for _, reason in failures)),
            "seconds_per_image": round(seconds / drawn, 3) if drawn else None,
        }

    def _parents(self, work: Work) -> tuple[list[str], Counter[str]]:
        """Return the ids of the images that are drawn anew, and why others are not."""
        left_out, found = Counter[str](), list[str]()
        labelled = one_of("state", [state.value for state in TRAINED_ON])
        real = both("not made", one_of("split", ("", "train")), labelled, self.where)
        for sample in work.dataset.samples(real, images=False):
            if examine({"reference": said_of(sample), "style": self.style}) is not None:
                left_out["what came with it is refused"] += 1
            elif any(label.box_xyxy is None for label in sample.truth.labels):
                left_out["a label has no box"] += 1
            elif not sample.truth.labels and not sample.truth.looked:
                left_out["nobody said what is not there"] += 1
            else:
                found.append(sample.id)
        return sorted(found)[: self.most], left_out


@dataclass(frozen=True, kw_only=True)
class _Drawings:
    """Draws what the step asks for; `weights` names and digests each checkpoint, `key` the source of all drawings."""

    step: Restyle
    work: Work
    parts: Parts
    weights: dict[str, dict[str, str]]
    key: str

    def after(self, done: int, wanted: Sequence[tuple[str, int]]) -> Iterator[NewSample | Failed]:
        """Yield what comes after the first `done` drawings: id of the parent and number of the view.

        Batches are cut from all of them, so that a run that was killed draws the same pixels.
        """
        studio, colours, start = None, None, 0
        writer, drawing = self.step.files.writer(), self.step.drawing
        for batch in batched(wanted, drawing.batch_size):
            skip, start = max(0, done - start), start + len(batch)
            if skip >= len(batch):
                continue
            studio = studio or Studio(self.step.model, self.parts, drawing=drawing, device=self.work.device)
            parents = self.work.dataset.read([id_ for id_, _ in batch])
            for parent in parents:
                refuse({"prompt": self.step.words, "reference": said_of(parent)})
            frames = [_framed(parent, studio.size_wh) for parent in parents]
            seeds = [_seed(self.work.seed, *one) for one in batch]
            adapter = self.parts.adapter(self.step.style)
            prompts = [self.step.words] * len(batch)
            drawn = studio.along_edges(prompts, seeds, [image for image, _ in frames], drawing, adapter)
            if self.step.colours:
                colours = colours or self._colours(studio)
                drawn = [image if isinstance(image, str) else colours.correct(image) for image in drawn]
            rows = list(zip(batch, parents, seeds, frames, drawn, strict=True))
            for (id_, view), parent, seed, (_, boxes), image in rows[skip:]:
                name = f"{self.work.name}/{id_[:12]}-{view}"
                if isinstance(image, str) or boxes is None:
                    yield Failed(name=name, error=image if isinstance(image, str) else "the frame cuts a box")
                    continue
                origin = self._origin(name, parent, seed, studio)
                yield NewSample(
                    data=writer.write(image, origin),
                    origin=origin,
                    claims=_claims(parent, boxes, self.work),
                    columns={STYLE: self.step.style} | ({"split": parent.split} if parent.split else {}),
                )

    def _colours(self, studio: Studio) -> Colours:
        """Look at images of the style."""
        real = both("not made", "split != 'test'", self.step.colours)
        ids = sorted(sample.id for sample in self.work.dataset.samples(real, images=False))[:LOOKED_AT]
        if not ids:
            raise InputError(
                f"{self.work.name}: no image whose colours could be looked at; the condition is: {self.step.colours}"
            )
        frames = (_framed(sample, studio.size_wh)[0] for sample in self.work.dataset.read(ids))
        return colours_of(studio.pipeline.vae, [resize(frame, studio.size_wh) for frame in frames])

    def _origin(self, name: str, parent: Sample, seed: int, studio: Studio) -> dict[str, Json]:
        asked, parts, style = self.step, self.parts, self.step.style
        own, licence = str(parent.origin.get("licence") or ""), models.spec(asked.model).licence
        adapters: list[Json] = [
            {**self.weights[lora], "weight": weight}
            for lora, weight in zip(parts.of_style(style), parts.weights(style), strict=True)
        ]
        return {
            "source": name, "step": self.work.name, "key": self.key, "method": "restyle", "style": style,
            "licence": licence_of_all(asked.licence or licence, own), "licence_of_model": licence, "licence_of_parent": own,
            "model": asked.model, "model_digest": self.weights[asked.model]["digest"], "adapters": adapters,
            "controlnet": {**self.weights[parts.controlnet], "scale": asked.drawing.control_scale},
            "prompt": asked.words, "negative_prompt": asked.drawing.negative_prompt, "seed": seed,
            "steps": asked.drawing.steps, "guidance": asked.drawing.guidance, "scheduler": studio.scheduler,
            "size_wh": list(studio.size_wh), "parents": [parent.id], "refusals": version(), "digital_source_type": MADE,
        }  # fmt: skip


def _seed(seed: int, id_: str, view: int) -> int:
    """Return the seed of a drawing's noise."""
    return int(np.random.default_rng((seed, int(id_[:12], 16), view)).integers(2**31))


def _framed(parent: Sample, size_wh: tuple[int, int]) -> tuple[Image, list[Box] | None]:
    """Cut the largest frame of a shape out of the middle of an image; return it with all boxes in pixels of the drawing.

    There are no boxes, None, where the frame cuts one, so that nobody could say whether the drawing shows the thing.
    """
    left, top, wide, tall = frame_around(parent.size_wh, None, size_wh)
    image = parent.pixels()[top : top + tall, left : left + wide]
    whole = np.array([label.box_xyxy for label in parent.truth.labels if label.box_xyxy], np.float64).reshape(-1, 4)
    boxes = clip(whole - [left, top, left, top], (wide, tall))
    if (areas(boxes) < CUT * areas(whole)).any():
        return image, None
    scale = np.array([*size_wh, *size_wh]) / [wide, tall, wide, tall]
    return image, [(float(a), float(b), float(c), float(d)) for a, b, c, d in boxes * scale]


def _claims(parent: Sample, boxes: Sequence[Box], work: Work) -> tuple[Claim, ...]:
    """Say of a drawing what is known of its parent."""
    truth = parent.truth
    say = partial(
        Claim, score=BELIEF, source=f"synth:{work.name}", evidence={"method": "restyle"}, asked=tuple(truth.looked),
        policy=work.policy.tag,
    )  # fmt: skip
    rows = zip(truth.labels, boxes, strict=True)
    return tuple(say(category=label.category, box_xyxy=box) for label, box in rows) or (say(says="empty"),)
