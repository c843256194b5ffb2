"""What is rehearsed with each family: the real steps on real photographs, each with its seconds and its own peak of memory.

Labels are made up, a box in the middle of each photograph: random weights learn nothing anyway, and any folder of photographs will do.
"""

import ctypes
import gc
import io
import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from tilth.annotate.exchange.importing import Import
from tilth.annotate.grounding.ground import Ground
from tilth.annotate.grounding.ports import load_port
from tilth.data.dataset import Dataset
from tilth.encoders.families import open_encoder
from tilth.engine.work import Step, Work
from tilth.events import Advance, Events
from tilth.mining.search.mine import Mine
from tilth.pipeline.steps.moderate import moderate_files
from tilth.pipeline.steps.package import Package
from tilth.policy import load_policy
from tilth.runtime.bundles.bundle import load_bundle
from tilth.synth.adapters.settings import Learning, Slice
from tilth.synth.adapters.training import TrainLora
from tilth.synth.draw.generate import Generate
from tilth.synth.draw.settings import Drawing, Parts
from tilth.synth.plan.prompts import Words
from tilth.train.artifacts.artifact import load_for_training
from tilth.train.judge.evaluate import Evaluate
from tilth.train.learn.classifier import TrainClassifier
from tilth.train.learn.detector import TrainDetector

POLICY = Path(__file__).parents[1] / "configs" / "policies" / "starter.yaml"
SPLITS = {"train": 16, "val": 4, "test": 4}
STEPS = 2  # of training
FEW = 2  # denoising steps
BOX = (0.3, 0.3, 0.4, 0.4)  # x, y, width and height in parts of a photograph

Told = dict[str, float]


class Watched(Events):
    """Events that also keep what each step of a training took of the processors, without what is done between two of them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.steps_s: list[float] = []

    @contextmanager
    def progress(self, label: str, total: int | None, *, unit: str = "images") -> Iterator[Advance]:
        """Show how far a piece of work is, and time it."""
        with super().progress(label, total, unit=unit) as told:
            last = time.process_time()

            def advance(n: int = 1, /, **shown: float) -> None:
                nonlocal last
                now = time.process_time()
                if unit == "steps" and n:
                    self.steps_s.append(now - last)
                last = now
                told(n, **shown)

            yield advance


class Rehearsal:
    """One family at work.

    Args:
        model: Folder of the family.
        photos: Folder of photographs.
        folder: For all that is made.
    """

    def __init__(self, model: Path, photos: Path, folder: Path) -> None:
        self.model, self.photos, self.folder = str(model), photos, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.events = Watched(folder / "events.jsonl")
        self.policy = load_policy(POLICY)
        self.dataset = Dataset(folder / "dataset")
        self.artifacts: dict[str, Path] = {}
        self.told: Told = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part: its seconds by the clock and of processors, and the peak of memory while it went on."""
        forget_peak()
        began, used = time.monotonic(), time.process_time()
        yield
        self.told[f"{name}.s"] = time.monotonic() - began
        self.told[f"{name}.core_s"] = time.process_time() - used
        self.told[f"{name}.peak_mb"] = peak_mb()
        print(f"{name}: {self.told[f'{name}.s']:.1f} s, {self.told[f'{name}.peak_mb']:,.0f} MB", flush=True)

    def run(self, name: str, step: Step, part: str = "") -> Mapping[str, Any]:
        """Run a step as a recipe would, measured when it is given as a part."""
        work = Work(
            name=name,
            dataset=self.dataset,
            policy=self.policy,
            folder=self.folder / "steps" / name,
            events=self.events,
            artifacts=self.artifacts,
            device="cpu",
        )
        work.folder.mkdir(parents=True)
        if not part:
            return step.run(work)
        with self.part(part):
            return step.run(work)

    def bring_in(self, *only: str) -> None:
        """Import photographs for training, for validation and for the test, or of some splits only."""
        for split, folder in labelled(self.photos, self.folder / "sets", self.policy).items():
            if only and split not in only:
                continue
            step = Import(path=folder, split=split, empty_means="confirmed_empty")  # type: ignore[arg-type]
            self.run(f"import.{split}", step)

    def per_image(self, images: int) -> None:
        """Note what an image of a training step took; the first step is left out, as it also makes everything ready."""
        self.told["train.core_s_an_image"] = min(self.events.steps_s[1:] or self.events.steps_s) / images

    def serve(self, **package: str) -> None:
        """Package, and let a few photographs through the bundle."""
        facts = self.run("package", Package(**package), "package")
        self.told["package.mb"] = facts["size_mb"]
        files = sorted((self.folder / "sets" / "test" / "images").iterdir())
        with self.part("moderate"):
            rows = list(moderate_files(Path(facts["folder"]), files))
        if wrong := [row["error"] for row in rows if "error" in row]:
            raise SystemExit(wrong[0])
        self.told["moderate.ms"] = min(row["ms"]["stage1"] for row in rows[1:])


def forget_peak() -> None:
    """Give back what is no longer used, and let the system count the peak anew."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Return the most memory that this process held since then, or that one of its children ever did."""
    lines = Path("/proc/self/status").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def labelled(photos: Path, folder: Path, policy: Any) -> dict[str, Path]:
    """Make a COCO set of photographs for each split; each fourth photograph shows nothing."""
    files = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    wanted = sum(SPLITS.values())
    if len(files) < wanted:
        raise SystemExit(f"{photos}: {len(files)} photographs, {wanted} are needed")
    chosen = iter(files[:: len(files) // wanted])
    names = [category.name for category in policy.pictured]
    found = {}
    for split, count in SPLITS.items():
        found[split] = folder / split
        (folder / split / "images").mkdir(parents=True)
        images, boxes = [], []
        for n in range(count):
            name = f"{n:03d}.jpg"
            with Image.open(next(chosen)) as opened:
                upright = ImageOps.exif_transpose(opened).convert("RGB")
            data = io.BytesIO()
            upright.save(data, "JPEG", quality=92)
            (folder / split / "images" / name).write_bytes(data.getvalue())
            width, height = upright.size
            images.append({"id": n, "file_name": name, "width": width, "height": height})
            box = [BOX[0] * width, BOX[1] * height, BOX[2] * width, BOX[3] * height]
            label = {"image_id": n, "category_id": n % len(names), "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            boxes += [{"id": len(boxes), **label}] if n % 4 != 3 else []
        categories = [{"id": n, "name": name} for n, name in enumerate(names)]
        document = {"images": images, "annotations": boxes, "categories": categories}
        (folder / split / "annotations.json").write_text(json.dumps(document))
    return found


def classify(made: Rehearsal) -> None:
    """Fine-tune a classifier at the model's own resolution, judge it, package it, serve it."""
    made.bring_in()
    labels = [category.name for category in made.policy.pictured]
    with made.part("load"):
        load_for_training("classifier", made.model, labels)
    step = TrainClassifier(model=made.model, steps=STEPS, lr=1e-4)
    facts = made.run("classifier", step, "train")
    made.per_image(step.batch_size)
    print(json.dumps({name: facts[name] for name in ("loss", "val_loss", "steps")}), flush=True)
    made.run("evaluate", Evaluate(split="test", classifier="classifier"), "evaluate")
    made.serve(classifier="classifier", detector="")


def detect(made: Rehearsal) -> None:
    """Fine-tune a detector at the model's own resolution, judge it, package it beside a small classifier, serve both."""
    made.bring_in()
    labels = [category.name for category in made.policy.pictured]
    with made.part("load"):
        load_for_training("detector", made.model, labels)
    made.run("classifier", TrainClassifier(steps=2, batch_size=8))
    made.events.steps_s.clear()
    step = TrainDetector(model=made.model, steps=STEPS, lr=1e-4)
    facts = made.run("detector", step, "train")
    made.per_image(step.batch_size)
    print(json.dumps({name: facts[name] for name in ("loss", "val_loss", "steps")}), flush=True)
    made.run("evaluate", Evaluate(split="test", classifier="classifier", detector="detector"), "evaluate")
    made.serve(classifier="classifier", detector="detector")


def find_boxes(made: Rehearsal) -> None:
    """Ask a grounding model about photographs in words."""
    made.bring_in("val")
    for _ in range(2):  # the second time the libraries are there
        with made.part("load"):
            load_port(Path(made.model), made.model)
    facts = made.run("ground", Ground(model=made.model, relabel=True), "ground")
    told = made.told
    told["ground.core_s_an_image"] = (told["ground.core_s"] - told["load.core_s"]) / facts["looked_at_now"]
    print(json.dumps({name: facts[name] for name in ("looked_at_now", "boxes", "failed", "unknown")}), flush=True)


def mine(made: Rehearsal) -> None:
    """Turn photographs into vectors and search them in words."""
    corpus = labelled(made.photos, made.folder / "sets", made.policy)["train"] / "images"
    with made.part("load"):
        encoder = open_encoder(made.model, "cpu")
    print(f"{encoder.queries} vectors of {encoder.width} numbers an image", flush=True)
    images = [encoder.inputs.load(path.read_bytes()) for path in corpus.iterdir()]
    for _ in range(2):  # the second time everything is ready
        with made.part("embed"):
            encoder.images(images)
    made.told["mine.core_s_an_image"] = made.told["embed.core_s"] / len(images)
    del encoder
    facts = made.run("mine", Mine(corpus=str(corpus), model=made.model, per_category=2, rerank=2), "mine")
    print(json.dumps({name: facts[name] for name in ("mined", "embedded", "failed")}), flush=True)


def classify_and_mine(made: Rehearsal) -> None:
    """Do both with a model that both a classifier and a search begin with."""
    mine(made)
    made.folder = made.folder / "again"
    made.dataset = Dataset(made.folder / "dataset")
    classify(made)


def judge_words(made: Rehearsal) -> None:
    """Package a language model beside a small classifier, and let it judge words."""
    made.bring_in()
    made.run("classifier", TrainClassifier(steps=2, batch_size=8))
    facts = made.run("package", Package(classifier="classifier", detector="", language_model=made.model), "package")
    made.told["package.mb"] = facts["size_mb"]
    with made.part("open"):
        moderator = load_bundle(Path(facts["folder"]))
    with made.part("judge"):
        [verdict] = moderator.moderate_texts(["BUY NOW NO ID NEEDED"])
    made.told["judge.ms"] = verdict.timings_ms["language"]
    print(json.dumps({"action": verdict.action, "scores": verdict.scores}), flush=True)


def drawn(made: Rehearsal, **more: Any) -> None:
    """Draw an image from words in a few steps, and one with each of what is added."""
    from diffusers import UNet2DConditionModel

    made.bring_in()
    words = Words(
        template="a {style} of a {thing} {place}",
        inpaint_template="a {style} of a {thing}",
        fillings={"place": ("on a table", "on the ground")},
    )
    settings: dict[str, Any] = {"model": made.model, "max_ratio": 1.0, "words": words, "licence": "none"}
    drawing = Drawing(steps=FEW, guidance=7.0, batch_size=1)
    with timed(UNet2DConditionModel) as seconds:
        for part, own in {"draw": {}, **more}.items():
            facts = made.run(part, Generate(count=1, drawing=drawing, **settings, **own), part)
            print(json.dumps({"part": part, "made": facts["made"], "failures": facts["failures"]}), flush=True)
            made.told.setdefault("draw.core_s_a_step", min(seconds))


@contextmanager
def timed(kind: Any) -> Iterator[list[float]]:
    """Note what each call of a kind of network takes of the processors."""
    own, seconds = kind.forward, list[float]()

    @wraps(own)
    def forward(*given: Any, **more: Any) -> Any:
        began = time.process_time()
        said = own(*given, **more)
        seconds.append(time.process_time() - began)
        return said

    kind.forward = forward
    yield seconds
    kind.forward = own


def draw(made: Rehearsal) -> None:
    """Draw from words alone."""
    drawn(made)


def draw_and_add(made: Rehearsal) -> None:
    """Draw from words, along edges, into a hole and with an adapter; train an adapter."""
    beside = Path(made.model).parent
    parts = {
        "edges": {"methods": {"edges": 1.0}, "parts": Parts(controlnet=str(beside / "controlnet"))},
        "inpaint": {"methods": {"inpaint": 1.0}},
        "adapter": {"parts": Parts(loras={"photo": str(beside / "kohya.safetensors")})},
    }
    drawn(made, **parts)
    taught = TrainLora(
        model=made.model, images=Slice(most=5, mirror=False), learning=Learning(steps=2, batch_size=1, patience=0)
    )
    made.run("train.lora", taught, "teach")


REHEARSALS: dict[str, Callable[[Rehearsal], None]] = {
    one.__name__: one
    for one in (classify, detect, find_boxes, mine, classify_and_mine, judge_words, draw, draw_and_add)
}
