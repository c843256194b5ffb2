"""How fast Stage 1 screens an image, beside transformers' models in eager float32, and what its back end does to accuracy.

    python benchmarks/stage1.py --bundle runs/starter/bundle --test runs/faithful-world/test --truth runs/faithful-world/truth.jsonl

Speed: a ViT-S/16 of 224 pixels and D-FINE S of 640, with random weights, as speed does not ask what they are. Ours is a bundle of both,
tuned on this machine; the rival is what people write with transformers: its processors and its models, `eval()`, `inference_mode()`, eager
float32, with one thread and with as many as ours, of which the faster counts: on a busy machine torch's threads wait. All get
the same decoded image of 640 x 480, one at a time, and take turns.

Accuracy: a bundle of the starter's models, which know the answers, on sealed test images: whether an image is flagged by Stage 1, by each
back end, against the truth. `ours` runs on the fastest back ends of those that lose half a point at most. `tilth tune` asks for more, that
no score moves by more than 0.05, which a detector of random weights may miss where a trained one does not: `as_tuned` is what it takes.
"""

import argparse
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, add_option
from full_size_models import write_dfine

from tilth.images import Image, decode, resize
from tilth.policy import load_policy
from tilth.runtime.bundles.bundle import load_bundle, open_part, seal
from tilth.runtime.bundles.tune import table, tune
from tilth.runtime.stages.graphs import BACK_ENDS, REFERENCE, usable_cores
from tilth.runtime.stages.stage1 import Stage1

LABELS = ["knife", "cigarette", "bottle", "pill", "dice", "text_area"]
ROOT = Path(__file__).parents[1]
SEED = 0
LOST = 0.5  # points of accuracy that a back end may lose


def write_models(folder: Path) -> tuple[Path, Path]:
    """Write both models with random weights as artifacts of a training."""
    import torch
    import transformers as tf

    from tilth.train.artifacts.artifact import About, write_about

    torch.manual_seed(SEED)
    classifier, detector = folder / "classifier", folder / "detector"
    small = tf.ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=len(LABELS))
    tf.ViTForImageClassification(small).save_pretrained(classifier)
    halves = {"mean": [0.5] * 3, "std": [0.5] * 3}
    write_about(classifier, About(kind="classifier", base="ViT-S/16", labels=LABELS, side=224, **halves))
    write_dfine(folder / "of-80")
    config = tf.DFineConfig.from_pretrained(folder / "of-80", num_labels=len(LABELS))
    model = tf.DFineForObjectDetection(config)
    for module in model.modules():  # as they are drawn, all proposals come out alike, and which are taken is chance
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    model.save_pretrained(detector)
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3}
    write_about(detector, About(kind="detector", base="D-FINE S", labels=LABELS, side=640, **plain))
    return classifier, detector


def write_bundle(classifier: Path, detector: Path, folder: Path) -> Path:
    """Export both, with a policy that words do not decide."""
    import yaml

    from tilth.train.artifacts.export import export_classifier, export_detector

    folder.mkdir()
    export_classifier(classifier, folder)
    export_detector(detector, folder)
    policy = load_policy(ROOT / "configs" / "policies" / "starter.yaml")
    told = policy.model_dump(mode="json", exclude={"hash_lists"}, exclude_none=True)
    told["categories"] = [category for category in told["categories"] if category["name"] in LABELS]
    (folder / "policy.yaml").write_text(yaml.safe_dump(told))
    seal(folder)
    return folder


def rival(classifier: Path, detector: Path) -> Callable[[Image, int], Any]:
    """Return both models as transformers runs them, with so many threads."""
    import torch
    import transformers as tf

    vit = tf.ViTForImageClassification.from_pretrained(classifier, attn_implementation="eager").eval()
    dfine = tf.DFineForObjectDetection.from_pretrained(detector).eval()
    square = {"height": 224, "width": 224}
    one = tf.ViTImageProcessor(size=square)
    other = tf.RTDetrImageProcessor(size={"height": 640, "width": 640}, do_normalize=False)

    def screen(image: Image, threads: int) -> Any:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            logits = vit(**one(image, return_tensors="pt")).logits
            said = dfine(**other(image, return_tensors="pt"))
            sizes = [(image.shape[0], image.shape[1])]
            return logits.sigmoid(), other.post_process_object_detection(said, threshold=0.3, target_sizes=sizes)

    return screen


def race(jobs: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds of each job, which take turns, and the processor time of each in all, which others on the machine change less."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    worked = dict.fromkeys(jobs, 0.0)
    for turn in range(rounds + 2):
        for name, job in jobs.items():
            began, used = time.perf_counter(), time.process_time()
            job()
            if turn >= 2:
                taken[name].append(time.perf_counter() - began)
                worked[name] += time.process_time() - used
    return taken, worked


def speed(figures: Figures, rounds: int, photos: Sequence[Image], work: Path, right: Sequence[str]) -> None:
    classifier, detector = write_models(work)
    bundle = write_bundle(classifier, detector, work / "bundle")
    tuned = tune(bundle, photos)
    print(table(tuned))
    threads = usable_cores()
    image = photos[0]
    screen = rival(classifier, detector)
    plain = load_bundle(bundle, tuned=False).stage1
    fastest = {
        part: min((row for row in found.measured if row.back_end in right and row.ms_one), key=lambda row: row.ms_one)
        for part, found in tuned.graphs.items()
    }
    graphs = {
        part: replace(getattr(plain, part), graph=open_part(bundle, part, back_end=row.back_end))
        for part, row in fastest.items()
    }
    stages = {"ours": replace(plain, **graphs), "as_tuned": load_bundle(bundle).stage1, "onnxruntime": plain}
    jobs = {name: (lambda stage=stage: stage([image])) for name, stage in stages.items()}
    taken, worked = race({"one": lambda: screen(image, 1), "all": lambda: screen(image, threads), **jobs}, rounds)
    faster = min("one", "all", key=lambda which: float(np.median(taken[which])))
    taken["transformers"], worked["transformers"] = taken[faster], worked[faster]
    figures.add("transformers_threads", 1 if faster == "one" else threads, "")
    name = f"transformers {importlib.metadata.version('transformers')}, eager float32"
    ratios = np.array(taken["transformers"]) / np.array(taken["ours"])
    drawn = np.random.default_rng(SEED).integers(0, rounds, (1000, rounds))
    interval = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    figures.add("speedup", float(np.median(ratios)), "times", ci95=[*map(float, interval)], n=rounds, rival=name)
    figures.add("speedup_processor", worked["transformers"] / worked["ours"], "times", n=rounds, rival=name)
    for other in ("as_tuned", "onnxruntime"):
        beside = float(np.median(np.array(taken["transformers"]) / np.array(taken[other])))
        figures.add(f"speedup_{other}", beside, "times", n=rounds, rival=name)
    for which in (*stages, "transformers"):
        figures.add(f"ms.{which}", 1000 * float(np.median(taken[which])), "ms", n=rounds)
    for part, found in tuned.graphs.items():
        for row in found.measured:
            key = f"{part}.{row.back_end.replace('-', '_')}"
            figures.add(f"{key}.ms_one", row.ms_one, "ms")
            figures.add(f"{key}.ms_batch", row.ms_batch, "ms")
            figures.add(f"{key}.score_gap", row.score_gap, "")
        print(f"{part}: {fastest[part].back_end}, as tuned {found.back_end}")
    print(f"{np.median(ratios):.2f} times as fast as {name}; processor time {worked}")


def accuracy(figures: Figures, bundle: Path, test: Path, truth: Path) -> list[str]:
    """Measure what back ends do to accuracy, and return those that lose half a point at most."""
    moderator = load_bundle(bundle, tuned=False)
    policy, stage1 = moderator.policy, moderator.stage1
    rows = [row for row in map(json.loads, truth.read_text().splitlines()) if row["split"] == "test"]
    images = [decode((test / "images" / row["file"]).read_bytes()) for row in rows]
    unsafe = np.array([any(each["category"] not in policy.signposts for each in row["labels"]) for row in rows])
    lines = {category.name: category.review_above for category in policy.pictured}

    def flagged(stage: Stage1) -> np.ndarray:
        return np.array([any(one.scores[name] > line for name, line in lines.items()) for one in stage(images)])

    was = flagged(stage1)
    figures.add("accuracy.images", len(rows), "")
    figures.add("accuracy.onnxruntime", float((was == unsafe).mean()), "share", n=len(rows))
    lost = {REFERENCE: 0.0}
    for back_end in [each for each in BACK_ENDS if each != REFERENCE]:
        graphs = {
            name: replace(getattr(stage1, name), graph=open_part(bundle, name, back_end=back_end))
            for name in stage1.back_ends
        }
        found = flagged(replace(stage1, **graphs))
        key = f"accuracy.{back_end.replace('-', '_')}"
        figures.add(key, float((found == unsafe).mean()), "share", n=len(rows))
        figures.add(f"{key}_changed", int((found != was).sum()), "images", n=len(rows))
        lost[back_end] = 100 * float((was == unsafe).mean() - (found == unsafe).mean())
    right = [back_end for back_end, points in lost.items() if points <= LOST]
    worst = max(lost[back_end] for back_end in right)
    figures.add("accuracy_loss", worst, "points", n=len(rows))
    print(
        f"accuracy {(was == unsafe).mean():.4f}; the most that a back end of {', '.join(right)} loses: {worst:.2f} points"
    )
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="of the starter's models")
    parser.add_argument("--test", type=Path, required=True, help="folder of sealed test images")
    parser.add_argument("--truth", type=Path, required=True, help="what they show")
    parser.add_argument("--rounds", type=int, default=25)
    add_option(parser)
    args = parser.parse_args()
    figures = Figures("stage1", seeds=[SEED])
    files = sorted((args.test / "images").iterdir())[:8]
    photos = [resize(decode(file.read_bytes()), (640, 480)) for file in files]
    right = accuracy(figures, args.bundle, args.test, args.truth)
    with tempfile.TemporaryDirectory() as work:
        speed(figures, args.rounds, photos, Path(work), right)
    figures.write(args.results)


if __name__ == "__main__":
    main()
