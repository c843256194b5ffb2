"""Images that keep what a model knew while it learns something new: real ones, or its own drawings from before.

Paper: https://arxiv.org/abs/2208.12242 (section 3.2)
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tilth.data.where import both
from tilth.engine.job import batched
from tilth.engine.work import Work
from tilth.images import decode, encode_png, image_id
from tilth.samples import Sample
from tilth.synth.adapters.captions import Fits, contents, written
from tilth.synth.adapters.choosing import REAL, Shown, may_teach, never
from tilth.synth.adapters.settings import Captions, Prior
from tilth.synth.draw.pipelines import Studio
from tilth.synth.draw.settings import Drawing
from tilth.synth.plan.survey import style_of
from tilth.synth.safety.refusals import refuse

AT_ONCE = 8
STREAM = 72  # of random numbers


def real(work: Work, prior: Prior, captions: Captions, fits: Fits, taken: Sequence[Shown]) -> list[Shown]:
    """Choose real images of the training split, none of those that are learned from.

    Args:
        work: Of the step.
        prior: Which, and how many at most.
        captions: How they are described.
        fits: Whether the model reads a text to its end.
        taken: The images that are learned from.
    """
    forbidden, own = never(work.policy), {one.sample.id for one in taken}
    ids = sorted(
        id_ for some in work.dataset.ids(both(REAL, prior.where), dropped=False) for id_ in some if id_ not in own
    )
    found: list[Shown] = []
    for some in batched(ids, AT_ONCE):
        for sample in work.dataset.read(some):
            word = style_of(sample) or prior.style
            if len(found) < prior.count and may_teach(sample, forbidden, {"style": word}):
                texts = dict.fromkeys(written(each, word, captions, fits) for each in contents(sample, work.policy))
                found.append(Shown(sample=sample, captions=tuple(texts), prior=True))
        if len(found) >= prior.count:
            break
    return found


def drawn(work: Work, model: str, prior: Prior, captions: Captions, fits: Fits, taken: Sequence[Shown]) -> list[Shown]:
    """Let the model draw, before it learns, what is in the images that it will learn from, in a style that it knows.

    Drawings are kept in the step's folder, so that a killed step goes on with them; they never come into the dataset.

    Args:
        work: Of the step.
        model: That draws.
        prior: How many, and in which style.
        captions: How they are asked for.
        fits: Whether the model reads a text to its end.
        taken: The images that are learned from.
    """
    said = dict.fromkeys(each for one in taken if not one.val for each in one.contents)
    texts = list(dict.fromkeys(written(each, prior.style, captions, fits) for each in said))
    for text in texts:
        refuse({"prompt": text})
    folder = work.folder / "prior"
    folder.mkdir(parents=True, exist_ok=True)
    plan = [(folder / f"{n:05d}.png", texts[n % len(texts)], n) for n in range(prior.count)]
    studio: Studio | None = None
    with work.events.progress(f"{work.name}: draw what it knows", len(plan)) as advance:
        for some in batched(plan, AT_ONCE):
            if not all(path.exists() or path.with_suffix(".txt").exists() for path, _, _ in some):
                studio = studio or Studio(model, device=work.device)
                seeds = [int(np.random.default_rng((work.seed, STREAM, n)).integers(2**31)) for _, _, n in some]
                images = studio.from_text([text for _, text, _ in some], seeds, Drawing())
                for (path, _, _), image in zip(some, images, strict=True):
                    if isinstance(image, str):
                        path.with_suffix(".txt").write_text(image)
                        continue
                    path.with_suffix(".partial").write_bytes(encode_png(image))
                    path.with_suffix(".partial").replace(path)
            advance(len(some))
    return list(_shown(plan))


def _shown(plan: Sequence[tuple[Path, str, int]]) -> Iterator[Shown]:
    for path, text, _ in plan:
        if path.exists():
            data = path.read_bytes()
            image = decode(data)
            sample = Sample(id=image_id(image), size_wh=(image.shape[1], image.shape[0]), data=data)
            yield Shown(sample=sample, captions=(text,), prior=True)
