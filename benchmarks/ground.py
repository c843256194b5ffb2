"""Labelling images with 20 categories on a CPU: images a second and AP50 beside the loops that people use today.

    python benchmarks/ground.py --images 200
    python benchmarks/ground.py --memory 1000 4000 16000

All sides have the same weights (the starter's miniature), the same size of image, the same 20 phrases and one process. Rivals:

- `groundingdino-py`: `groundingdino.util.inference.predict`, image by image, as its README shows.
- `autodistill`: `autodistill_grounding_dino.GroundingDINO.predict`, which asks once for every category. Only where it is
  installed (`pip install --no-deps autodistill autodistill-grounding-dino`; its pins do not go with ours). Its own loader
  fetches weights; here it is given these.

Both shrink the pictures to the miniature's size instead of their fixed 800 pixels, which would only slow them down. A
rival's joined phrases, such as "red knife cup", name no category and are dropped, as its own `phrases2classes` does.

The categories are coloured kinds of drawn things, such as "red knife": none includes another. AP50 is
COCO's. Peak memory is of a fresh process a size.
"""

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tilth import models
from tilth.annotate.grounding_model import Finder
from tilth.annotate.phrases import Question
from tilth.images import Image
from tilth.starter.data import scene_rng
from tilth.starter.world import COLORS, KINDS, Thing, draw_spec, render

MODEL = "starter:grounding"
FLOOR = 0.1
PHRASES = tuple(f"{color} {kind}" for color in list(COLORS)[:2] for kind in KINDS)[:20]

Box = tuple[str, float, tuple[float, float, float, float]]
"""Phrase, score, and xyxy in pixels."""


def scenes(count: int) -> list[tuple[Image, tuple[Thing, ...]]]:
    found = []
    for index in range(count):
        rng = scene_rng("judge_held_out", index)
        scene = render(draw_spec(rng), rng, side=96)
        found.append((scene.image, scene.things))
    return found


def ours(backend: str, precision: str) -> Callable[[Sequence[Image]], list[list[Box]]]:
    asked = tuple(Question(category=phrase, phrases=(phrase,)) for phrase in PHRASES)
    finder = Finder(MODEL, asked, backend=backend, device="cpu", floor=FLOOR, precision=precision)

    def find(images: Sequence[Image]) -> list[list[Box]]:
        found = []
        for start in range(0, len(images), 32):
            for seen in finder.find(images[start : start + 32]):
                found.append([(one.phrase, one.score, one.box_xyxy) for one in seen])
        return found

    return find


def package_loop() -> Callable[[Sequence[Image]], list[list[Box]]]:
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


def autodistill_loop() -> Callable[[Sequence[Image]], list[list[Box]]]:
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
    from tilth.annotate.grounding_package import PackageNetwork

    return PackageNetwork(models.locate(MODEL), MODEL, "cpu")._model


def _transform(T: Any) -> Any:  # noqa: N803
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return T.Compose([T.RandomResize([96], max_size=160), T.ToTensor(), T.Normalize(mean, std)])


def ap50(found: Sequence[Sequence[Box]], truth: Sequence[Sequence[Thing]]) -> float:
    """Return the mean AP50 over phrases that are true of something."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = {phrase: n for n, phrase in enumerate(PHRASES)}
    annotations: list[dict[str, Any]] = []
    for place, things in enumerate(truth):
        for thing in things:
            x0, y0, x1, y1 = thing.box_xyxy
            if (phrase := f"{thing.color} {thing.kind}") in names:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": place,
                        "category_id": names[phrase],
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": int(thing.visible <= 0.2),
                    }
                )
    rows = [
        {"image_id": n, "category_id": names[p], "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]], "score": s}
        for n, seen in enumerate(found)
        for p, s, b in seen
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints a table
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": n} for n in range(len(truth))],
            "annotations": annotations,
            "categories": [{"id": n, "name": name} for name, n in names.items()],
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(rows), "bbox")
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][0, :, :, 0, 2]
    return float(precision[:, (precision > -1).any(0)].mean())


def compare(count: int) -> None:
    import torch

    data = scenes(count)
    images, truth = [image for image, _ in data], [things for _, things in data]
    sides: dict[str, Callable[[], Callable[[Sequence[Image]], list[list[Box]]]]] = {
        "tilth, float32": lambda: ours("transformers", "float32"),
        "tilth, bfloat16": lambda: ours("transformers", "bfloat16"),
        "tilth, backend groundingdino-py": lambda: ours("groundingdino-py", "float32"),
        "groundingdino-py, its loop": package_loop,
        "autodistill-grounding-dino": autodistill_loop,
    }
    print(f"{count} images of 96 x 96, {len(PHRASES)} phrases, {torch.get_num_threads()} threads")
    for name, make in sides.items():
        try:
            find = make()
        except ModuleNotFoundError as error:
            print(f"{name:34} not run: {error}")
            continue
        few = max(20, count // 10)  # enough of the slowest
        some = images if name.startswith(("tilth", "groundingdino")) else images[:few]
        find(some[:16])
        began = time.perf_counter()
        found = find(some)
        rate = len(some) / (time.perf_counter() - began)
        print(
            f"{name:34} {rate:8.2f} images/s   AP50 {ap50(found, truth[: len(some)]):.4f}   on {len(some)}", flush=True
        )


def memory(count: int) -> None:
    """Label so many images through the engine, in this process, and print its peak memory."""
    import tempfile
    from pathlib import Path

    from tilth.annotate.ground import Ground
    from tilth.dataset import Dataset
    from tilth.events import Events
    from tilth.images import encode_png
    from tilth.policy import load_policy
    from tilth.samples import NewSample
    from tilth.work import Work

    policy = load_policy(Path(__file__).parents[1] / "configs" / "policies" / "starter.yaml")
    base = [image for image, _ in scenes(64)]

    def images() -> Any:
        for n in range(count):
            image = base[n % 64].copy()
            image[0, :3] = np.frombuffer(n.to_bytes(9, "little"), np.uint8).reshape(3, 3)  # each picture once
            yield NewSample(data=encode_png(image), origin={"n": n})

    with tempfile.TemporaryDirectory() as folder:
        work = Work(
            name="ground",
            dataset=Dataset(Path(folder) / "dataset"),
            policy=policy,
            folder=Path(folder) / "files",
            events=Events(),
        )
        work.add("images", images())
        facts = Ground().run(work)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps({"images": facts["images"], "images_per_s": facts["images_per_s"], "peak_rss_mb": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--memory", type=int, nargs="*", default=[])
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # of the rivals' old calls
    if len(asked.memory) == 1:
        memory(asked.memory[0])
    elif asked.memory:
        for count in asked.memory:
            subprocess.run([sys.executable, __file__, "--memory", str(count)], check=True)
    else:
        compare(asked.images)


if __name__ == "__main__":
    main()
