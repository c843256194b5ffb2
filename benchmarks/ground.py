"""Labelling images with 20 categories on a CPU: images a second and AP beside the loops that people use today.

    OMP_NUM_THREADS=1 python benchmarks/ground.py

All sides have the same weights (the starter's miniature), the same size of image, the same 20 phrases and one process. Rivals:

- `predict`: `groundingdino.util.inference.predict`, image by image, as the README of `groundingdino-py` shows. Joined
  phrases, such as "red knife cup", name no category and are dropped, as its own `phrases2classes` does.
- `token spans`: the same loop as a careful user writes it. A phrase's score is the mean over its own tokens, by the
  package's `create_positive_map_from_span`, and a box gets its best phrase. This reaches our AP.
- `autodistill`: `autodistill_grounding_dino.GroundingDINO.predict`, which asks once for every category. Only where it is
  installed (`pip install --no-deps autodistill autodistill-grounding-dino`; its pins do not go with ours). Its own loader
  fetches weights; here it is given these.

They shrink the pictures to the miniature's size instead of their fixed 800 pixels, which would only slow them down.

The sides take turns, a part of the images at a time, so that whatever else the machine does meets all of them; rates are
medians over the parts, in processor time. autodistill takes `--few` of the images. AP is COCO's, at IoU 0.5 and as the mean of 0.5 to 0.95;
differences are of the same images, with 95 % intervals of a bootstrap over images. The categories are coloured kinds of
drawn things, such as "red knife": none includes another.
"""

import argparse
import contextlib
import io
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, add_option

from tilth import models
from tilth.annotate.grounding.model import Finder
from tilth.annotate.grounding.phrases import Question
from tilth.errors import MissingExtra
from tilth.images import Image
from tilth.starter.world.scene import COLORS, KINDS, Thing, draw_spec, render
from tilth.starter.world.sets import scene_rng

MODEL = "starter:grounding"
FLOOR = 0.1
KEYS = {
    "tilth": "tilth",
    "tilth, bfloat16": "tilth_bfloat16",
    "tilth, backend groundingdino-py": "tilth_package",
    "groundingdino-py, predict": "predict",
    "groundingdino-py, token spans": "token_spans",
    "autodistill-grounding-dino": "autodistill",
}
PHRASES = tuple(f"{color} {kind}" for color in list(COLORS)[:2] for kind in KINDS)[:20]

Box = tuple[str, float, tuple[float, float, float, float]]
"""Phrase, score, and xyxy in pixels."""
Find = Callable[[Sequence[Image]], list[list[Box]]]


def scenes(count: int) -> list[tuple[Image, tuple[Thing, ...]]]:
    found = []
    for index in range(count):
        rng = scene_rng("judge_held_out", index)
        scene = render(draw_spec(rng), rng, side=96)
        found.append((scene.image, scene.things))
    return found


def ours(backend: str, precision: str) -> Find:
    asked = tuple(Question(category=phrase, phrases=(phrase,)) for phrase in PHRASES)
    finder = Finder(MODEL, asked, backend=backend, device="cpu", floor=FLOOR, precision=precision)

    def find(images: Sequence[Image]) -> list[list[Box]]:
        found = []
        for start in range(0, len(images), 32):
            for seen in finder.find(images[start : start + 32]):
                found.append([(one.phrase, one.score, one.box_xyxy) for one in seen])
        return found

    return find


def package_loop() -> Find:
    import groundingdino.datasets.transforms as T  # noqa: N812 - the package's own name for it
    import torch
    from groundingdino.util.inference import predict
    from PIL import Image as PilImage
    from torchvision.ops import box_convert

    model = _package_model()
    caption = " . ".join(PHRASES) + " ."
    transform = _transform(T)

    def find(images: Sequence[Image]) -> list[list[Box]]:
        found = []
        for image in images:
            pixels, _ = transform(PilImage.fromarray(image), None)
            boxes, scores, phrases = predict(model, pixels, caption, FLOOR, FLOOR, device="cpu")
            side = torch.tensor([image.shape[1], image.shape[0]] * 2)
            xyxy = box_convert(boxes * side, "cxcywh", "xyxy").tolist()
            rows = zip(phrases, scores.tolist(), xyxy, strict=True)
            found.append(
                [(phrase.strip(), score, tuple(box)) for phrase, score, box in rows if phrase.strip() in PHRASES]
            )
        return found

    return find


def span_loop() -> Find:
    import groundingdino.datasets.transforms as T  # noqa: N812
    import torch
    from groundingdino.util.vl_utils import create_positive_map_from_span
    from PIL import Image as PilImage
    from torchvision.ops import box_convert

    model = _package_model()
    caption = " . ".join(PHRASES) + " ."
    starts = [caption.index(phrase) for phrase in PHRASES]
    spans = [[[a, a + len(phrase)]] for a, phrase in zip(starts, PHRASES, strict=True)]
    shares = create_positive_map_from_span(model.tokenizer(caption), spans)
    transform = _transform(T)

    def find(images: Sequence[Image]) -> list[list[Box]]:
        found = []
        for image in images:
            pixels, _ = transform(PilImage.fromarray(image), None)
            with torch.no_grad():
                told = model(pixels[None], captions=[caption])
            tokens = told["pred_logits"][0].sigmoid()
            scores, best = (tokens @ shares[:, : tokens.shape[1]].T).max(1)
            kept = scores > FLOOR
            side = torch.tensor([image.shape[1], image.shape[0]] * 2)
            xyxy = box_convert(told["pred_boxes"][0][kept] * side, "cxcywh", "xyxy").tolist()
            rows = zip(best[kept].tolist(), scores[kept].tolist(), xyxy, strict=True)
            found.append([(PHRASES[k], score, (x0, y0, x1, y1)) for k, score, (x0, y0, x1, y1) in rows])
        return found

    return find


def autodistill_loop() -> Find:
    with contextlib.redirect_stdout(io.StringIO()):
        from autodistill.detection import CaptionOntology
        from autodistill_grounding_dino import GroundingDINO
    import groundingdino.datasets.transforms as T  # noqa: N812
    from groundingdino.util.inference import Model
    from PIL import Image as PilImage

    class Small(Model):
        def __init__(self) -> None:
            self.model, self.device = _package_model(), "cpu"

    transform = _transform(T)
    Model.preprocess_image = staticmethod(
        lambda image_bgr: transform(PilImage.fromarray(image_bgr[..., ::-1]), None)[0]
    )
    rival = GroundingDINO.__new__(GroundingDINO)
    rival.ontology = CaptionOntology({phrase: phrase for phrase in PHRASES})
    rival.grounding_dino_model, rival.box_threshold, rival.text_threshold = Small(), FLOOR, FLOOR

    def find(images: Sequence[Image]) -> list[list[Box]]:
        found = []
        for image in images:
            told = rival.predict(np.ascontiguousarray(image[..., ::-1]))
            rows = zip(told.class_id, told.confidence, told.xyxy, strict=True)
            found.append([(PHRASES[int(k)], float(s), tuple(map(float, b))) for k, s, b in rows])
        return found

    return find


def _package_model() -> Any:
    from tilth.annotate.grounding.package import PackageNetwork

    return PackageNetwork(models.locate(MODEL), MODEL, "cpu")._model


def _transform(T: Any) -> Any:  # noqa: N803
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return T.Compose([T.RandomResize([96], max_size=160), T.ToTensor(), T.Normalize(mean, std)])


class Judge:
    """COCO's evaluation of some images, that can count each of them so many times."""

    def __init__(self, found: Sequence[Sequence[Box]], truth: Sequence[Sequence[Thing]]) -> None:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        names = {phrase: n for n, phrase in enumerate(PHRASES)}
        things = [(n, thing) for n, seen in enumerate(truth) for thing in seen]
        annotations: list[dict[str, Any]] = [
            {
                "image_id": n,
                "category_id": names[phrase],
                **_bbox(thing.box_xyxy),
                "iscrowd": int(thing.visible <= 0.2),
            }
            for n, thing in things
            if (phrase := f"{thing.color} {thing.kind}") in names
        ]
        rows = [
            {"image_id": n, "category_id": names[phrase], **_bbox(box), "score": score}
            for n, seen in enumerate(found)
            for phrase, score, box in seen
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints a table
            coco = COCO()
            coco.dataset = {
                "info": {},
                "images": [{"id": n} for n in range(len(truth))],
                "annotations": [{"id": n, **one} for n, one in enumerate(annotations, 1)],
                "categories": [{"id": n, "name": name} for name, n in names.items()],
            }
            coco.createIndex()
            self._eval = COCOeval(coco, coco.loadRes(rows), "bbox")
            self._eval.params.areaRng, self._eval.params.areaRngLbl = [[0, 1e10]], ["all"]
            self._eval.params.maxDets = [100]
            self._eval.evaluate()
        images = len(truth)
        self._each = [self._eval.evalImgs[n * images : (n + 1) * images] for n in range(len(PHRASES))]

    def ap(self, images: Sequence[int]) -> tuple[float, float]:
        """Return AP50 and mAP of these images, as many as there are; means over the phrases that are true of something."""
        self._eval.evalImgs = [each[n] for each in self._each for n in images]
        with contextlib.redirect_stdout(io.StringIO()):
            self._eval.accumulate()
        precision = self._eval.eval["precision"][:, :, :, 0, 0]
        precision = precision[..., (precision > -1).any((0, 1))]
        return float(precision[0].mean()), float(precision.mean())


def _bbox(box_xyxy: tuple[float, float, float, float]) -> dict[str, Any]:
    x0, y0, x1, y1 = box_xyxy
    return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}


def resampled(judge: Judge, images: int, times: int = 200) -> Any:
    """Return AP50 and mAP of the images, and of so many bootstraps over them, `(1 + times, 2)`."""
    rng = np.random.default_rng(0)
    drawn = [np.arange(images), *(rng.integers(0, images, images) for _ in range(times))]
    return np.array([judge.ap(some) for some in drawn])


def differences(rows: Any) -> str:
    """Write by how much AP50 and mAP differ, with 95 % intervals."""
    low, high = np.percentile(rows[1:], [2.5, 97.5], axis=0)
    both = [f"{rows[0, k]:+.4f} [{low[k]:+.4f}, {high[k]:+.4f}]" for k in (0, 1)]
    return f"AP50 {both[0]}, mAP {both[1]}"


def compare(count: int, few: int, parts: int, results: Path) -> None:
    import torch

    figures = Figures("ground", seeds=[0])
    data = scenes(count)
    images, truth = [image for image, _ in data], [things for _, things in data]
    makers: dict[str, Callable[[], Find]] = {
        "tilth": lambda: ours("transformers", "float32"),
        "tilth, bfloat16": lambda: ours("transformers", "bfloat16"),
        "tilth, backend groundingdino-py": lambda: ours("groundingdino-py", "float32"),
        "groundingdino-py, predict": package_loop,
        "groundingdino-py, token spans": span_loop,
        "autodistill-grounding-dino": autodistill_loop,
    }
    finds: dict[str, Find] = {}
    for name, make in makers.items():
        try:
            finds[name] = make()
        except (ModuleNotFoundError, MissingExtra) as error:
            print(f"{name:32} not run: {error}")
            continue
        finds[name](images[:2])
    found: dict[str, dict[int, list[Box]]] = {name: {} for name in finds}
    rates: dict[str, list[float]] = {name: [] for name in finds}
    for which in np.array_split(np.arange(count), parts):
        for name, find in finds.items():
            some = which[: few // parts] if name.startswith("autodistill") else which
            began = time.process_time()
            seen = find([images[n] for n in some])
            rates[name].append(len(some) / (time.process_time() - began))
            found[name].update(zip(some.tolist(), seen, strict=True))
    print(f"{count} images of 96 x 96, {len(PHRASES)} phrases, {torch.get_num_threads()} threads, {parts} parts")
    first = next(iter(finds))
    known: dict[tuple[str, int], Any] = {}
    for name in finds:
        places = sorted(found[name])
        for who in (first, name):
            if (who, len(places)) not in known:
                judge = Judge([found[who][n] for n in places], [truth[n] for n in places])
                known[who, len(places)] = resampled(judge, len(places))
        reached, ours_there = known[name, len(places)], known[first, len(places)]
        times = np.median(np.divide(rates[first], rates[name]))
        print(
            f"{name:32} {len(places):4} images {np.median(rates[name]):7.2f}/CPU s   AP50 {reached[0, 0]:.4f}  "
            f"mAP {reached[0, 1]:.4f}   {first}: {times:.2f} times as fast, {differences(ours_there - reached)}",
            flush=True,
        )
        key, rival = KEYS[name], "" if name.startswith("tilth") else name
        figures.add(f"{key}.images", len(places), "images", rival=rival)
        figures.add(f"{key}.images_per_cpu_s", float(np.median(rates[name])), "images/s", n=parts, rival=rival)
        figures.add(f"{key}.ap50", reached[0, 0], "", n=len(places), rival=rival)
        figures.add(f"{key}.map", reached[0, 1], "", n=len(places), rival=rival)
        if name != first:
            figures.add(f"{key}.tilth_times", float(times), "times", n=parts, rival=rival)
            apart = ours_there - reached
            ends = np.percentile(apart[1:], [2.5, 97.5], axis=0)
            for k, metric in enumerate(("ap50", "map")):
                figures.add(f"{key}.tilth_more_{metric}", apart[0, k], "", ci95=ends[:, k].tolist(), rival=rival)
    figures.add("threads", torch.get_num_threads(), "threads")
    figures.write(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--few", type=int, default=48, help="images for autodistill")
    parser.add_argument("--parts", type=int, default=12)
    add_option(parser)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # of the rivals' old calls
    compare(asked.images, asked.few, asked.parts, asked.results)


if __name__ == "__main__":
    main()
