"""A small finished run to report on: rendered scenes in a real dataset, and a summary of the kind that runs leave."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.intake import Failed
from tilth.engine.steps import step
from tilth.engine.work import Work
from tilth.events import Events
from tilth.images import encode_png
from tilth.policy import Policy
from tilth.samples import NewSample, Result, Sample
from tilth.starter.world.scene import LOOK_ALIKES, STYLES, UNSAFE_KINDS, Scene, Spec, render
from tilth.starter.world.surfaces import SURFACES
from tilth.train.judge.kept import read_columns
from tilth.train.judge.measure import measure, unsafe_names

GROUND = "model:starter:grounding@5f0c9e3a71bd"
SCENES: dict[str, Scene] = {}
"""Truth of each image, by id."""


def scene(index: int, kind: str, style: str) -> Scene:
    """Draw a thing, sometimes beside a harmless one."""
    rng = np.random.default_rng((index, 77))
    colors = ("red", "green", "blue", "yellow", "purple", "teal")
    things = [(kind, colors[index % 6], "WIN BIG TONIGHT" if kind == "sign" else "")]
    if index % 3 == 0:
        things.append(("book", colors[(index + 2) % 6], ""))
    surface = list(SURFACES)[index % len(SURFACES)]
    spec = Spec(things=tuple(things), surface=surface, style=style)
    return render(spec, rng, side=192 if kind == "sign" else 96)


def found(made: Scene, source: str, score: float = 1.0, shift: float = 0.0) -> tuple[Claim, ...]:
    """Say of a scene what a source would."""
    claims = [
        Claim(
            category="text_area" if t.kind == "sign" else t.kind,
            source=source,
            score=score,
            evidence={"round": "1"},
            box_xyxy=(t.box_xyxy[0] + shift, t.box_xyxy[1] + shift, t.box_xyxy[2] + shift, t.box_xyxy[3] + shift),
        )
        for t in made.things
        if t.kind in (*UNSAFE_KINDS, "sign")
    ]
    return tuple(claims) or (Claim(says="empty", source=source, evidence={"round": "1"}),)


def new(index: int, kind: str, style: str, origin: dict[str, Any], source: str = "", **columns: Any) -> NewSample:
    """Render one image."""
    made = scene(index, kind, style)
    sample = NewSample(
        data=encode_png(made.image), origin=origin, claims=found(made, source) if source else (), columns=columns
    )
    SCENES[sample.identify()[0]] = made
    return sample


@step
class Say:
    """Attach results that a function makes."""

    name: str
    batch_size: int = 16

    def load(self) -> Callable[[Sequence[Sample]], list[Result]]:
        """Look the function up."""
        return lambda samples: [SAY[self.name](s) for s in samples]


def _ground(sample: Sample) -> Result:
    made = SCENES[sample.id]
    return Result(claims=found(made, GROUND, 0.4 + int(sample.id[:2], 16) / 512, shift=1.5))


def _review(sample: Sample) -> Result:
    return Result(claims=found(SCENES[sample.id], "human:ana"))


def _dedup(sample: Sample) -> Result:
    number = int(sample.id[:4], 16)
    return Result(dropped=f"near-duplicate of {sample.id[::-1][:12]}") if number % 9 == 0 else Result()


def _quality(sample: Sample) -> Result:
    number = int(sample.id[4:8], 16)
    return Result(columns={"quality.sharpness": number / 65536}, dropped="too dark" if number % 17 == 0 else "")


def _accept(sample: Sample) -> Result:
    reasons = (
        "the classifier does not see the category",
        "text score below the threshold",
        "near-duplicate of its parent",
        "",
        "",
        "",
    )
    return Result(dropped=reasons[int(sample.id[:3], 16) % len(reasons)])


def _split(sample: Sample) -> Result:
    return Result(columns={"split": "val" if int(sample.id[:2], 16) < 40 else "train"})


SAY: dict[str, Callable[[Sample], Result]] = {
    "ground": _ground,
    "review": _review,
    "dedup": _dedup,
    "quality": _quality,
    "adherence": _accept,
    "split": _split,
}


def _images(
    first: int, n: int, styles: tuple[str, ...], origin: dict[str, Any], source: str = "", **more: Any
) -> Iterator[NewSample]:
    kinds = [*UNSAFE_KINDS, "sign", *LOOK_ALIKES.values(), "flower"]
    for i in range(first, first + n):
        yield new(
            i,
            kinds[i % len(kinds)],
            styles[i // 2 % len(styles)],
            origin | {"source": f"{origin['step']}/{i:06d}.png"},
            source,
            **more,
        )


def build_dataset(folder: Path, policy: Policy) -> Dataset:
    """Fill a dataset through the engine, as steps do."""
    data = Dataset(folder / "dataset")

    events = Events(folder / "events.jsonl", io.StringIO())

    def work(name: str) -> Work:
        return Work(
            name=name,
            dataset=data,
            policy=policy,
            folder=folder / "files" / name,
            max_fail_rate=0.9,
            events=events,
            now=lambda: "2026-11-20T21:14:03Z",
        )

    work("import").add(
        "a", _images(0, 36, ("photo",), {"step": "import", "licence": "CC0-1.0"}, "import:labelled/annotations.json")
    )
    mined: list[NewSample | Failed] = list(_images(100, 96, STYLES, {"step": "mine"}))
    mined += [
        Failed(name=f"corpus/{i:06d}.png", error="damaged image: image file is truncated") for i in (17, 204, 991)
    ]
    mined.append(Failed(name="corpus/003107.png", error="not an image of a known format"))
    work("mine").add("c", mined)
    is_mined = "step = 'mine'"
    work("quality").map(Say(name="quality"), is_mined)
    work("dedup").map(Say(name="dedup"), is_mined)
    work("ground").map(Say(name="ground"), is_mined)
    work("review").map(
        Say(name="review"), ids=[i for some in data.ids(is_mined, dropped=False) for i in some if i[1].isdigit()]
    )
    made = (
        {"step": "generate", "prompt": f"a {k}", "seed": i, "model": "starter:diffusion"}
        for i, k in enumerate(UNSAFE_KINDS * 8)
    )
    work("generate").add(
        "d", (new(300 + i, str(o["prompt"])[2:], STYLES[i % 4], o, "synth:starter") for i, o in enumerate(made))
    )
    work("adherence").map(Say(name="adherence"), "made")
    work("split").map(Say(name="split"), "split = ''")
    data.tag("first-loop")
    events.close()
    return data


def build_predictions(folder: Path) -> None:
    """Write a sealed test folder and what two detectors said of it; the first knows photos only."""
    kinds = [*UNSAFE_KINDS, "sign", *LOOK_ALIKES.values(), "flower"]
    (folder / "sealed" / "images").mkdir(parents=True)
    rows: dict[str, list[str]] = {"baseline": [], "final": []}
    for i in range(500, 560):
        style = STYLES[i // 2 % len(STYLES)]
        made, name = scene(i, kinds[i % len(kinds)], style), f"{i:06d}.png"
        (folder / "sealed" / "images" / name).write_bytes(encode_png(made.image))
        boxes = [[*c.box_xyxy, c.category] for c in found(made, GROUND) if c.box_xyxy]
        chance = np.random.default_rng(i).random()
        unsafe = any(box[4] != "text_area" for box in boxes)
        scores = {"baseline": chance * (1.0 if style == "photo" else 0.3), "final": 0.45 + 0.5 * chance}
        for who, score in scores.items():
            seen = [[x0 + 2, y0 + 2, x1 + 1, y1, round(score, 4), c] for x0, y0, x1, y1, c in boxes]
            seen += [] if unsafe else [[20.0, 20.0, 70.0, 70.0, round(chance * 0.6, 4), "bottle"]]
            truth = sorted({b[4] for b in boxes})
            row = {"id": name, "file": name, "part": style, "truth": truth, "truth_boxes": boxes,
                   "logits": {}, "boxes": seen}  # fmt: skip
            rows[who].append(json.dumps(row))
    for who, lines in rows.items():
        path = folder / "files" / who / "predictions.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(lines) + "\n")


def estimate(mean: float, half: float) -> dict[str, Any]:
    return {"mean": mean, "ci95": [round(max(0.0, mean - half), 4), round(min(1.0, mean + half), 4)]}


def measured(recall: float, f1: float, map50: float, half: float) -> dict[str, Any]:
    """An evaluation in the shape that `evaluate` reports."""
    off = dict(zip([*UNSAFE_KINDS, "text_area"], (-0.08, 0.03, 0.05, -0.02, 0.04, 0.01), strict=True))
    gap = dict(zip(STYLES, (0.16, 0.02, -0.05, -0.13), strict=True))
    three = lambda d, h: {  # noqa: E731
        "recall_at_fpr05": estimate(round(recall + d, 4), h),
        "f1": estimate(round(f1 + d, 4), h),
        "map50": estimate(round(map50 + d, 4), h),
    }
    return {
        "recall_at_fpr05": estimate(recall, half),
        "f1": estimate(f1, half),
        "map50": estimate(map50, half),
        "n_images": 60,
        "n_unsafe": 30,
        "per_category": {name: three(d, 0.07) for name, d in off.items()},
        "per_slice": {name: three(d, 0.05) for name, d in gap.items()},
    }


def around(mean: float, half: float) -> dict[str, Any]:
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def several_seeds() -> dict[str, Any]:
    """What `benchmarks/loop.py` leaves."""
    found = {
        "faithful.baseline": measured(0.21, 0.2, 0.3, 0.03),
        "faithful.loop": {**measured(0.62, 0.6, 0.68, 0.03), "human_actions": around(372, 8)},
        "faithful.random.400": measured(0.3, 0.3, 0.5, 0.04),
        "faithful.random.whole": measured(0.5, 0.6, 0.6, 0.04),
        "faithful.equal": {"f1": around(1500, 120)},
    }
    figures = {
        f"{of}.{name}": {"value": told["mean"], "unit": "", "ci95": told["ci95"], "n": 5}
        for of, row in found.items()
        for name, told in row.items()
        if isinstance(told, dict) and "mean" in told
    }
    flat = {
        "saved_f1": (0.75, 0.02),
        "saved_hours_f1": (0.8, 0.02),
        "people_add_recall": (0.11, 0.04),
        "step_rounds": (0.03, 0.01),
    }
    for name, (mean, half) in flat.items():
        figures[name] = {"value": mean, "unit": "share", "ci95": around(mean, half)["ci95"], "n": 5}
    figures["faithful.beyond.f1"] = {"value": 1, "unit": "seeds", "n": 5}
    return {"command": "python benchmarks/loop.py --seeds 1-5", "seeds": [1, 2, 3, 4, 5], "figures": figures}


def told(folder: Path, policy: Policy) -> dict[str, Any]:
    """What an evaluation tells of the predictions beside its numbers, and how it compares with the baseline."""
    rows = read_columns(folder / "files" / "final" / "predictions.jsonl", unsafe_names(policy))
    real = measure(rows, policy, None, box_threshold=0.5)
    kept = ("pr_curve", "curve", "confusion", "box_threshold", "per_severity", "always_unsafe")
    parts = {name: {"always_unsafe": real["always_unsafe"], "pr_curve": real["pr_curve"]} for name in UNSAFE_KINDS}
    difference = {"old": 0.312, "new": 0.784, "difference": {"mean": 0.472, "ci95": [0.421, 0.519]}}
    counts = {"images": 60, "right_only_now": 21, "right_only_before": 2, "p": 6.6e-05}
    against: dict[str, Any] = {
        "recall_at_fpr05": difference,
        **counts,
        "said": "better, by 42.1 to 51.9 points of recall",
    }
    more = {"test_opened": 3, "sliced_by": "style", "parts": parts}
    return {name: real[name] for name in kept} | more | {
        "average_precision": estimate(0.91, 0.03),
        "against": {"name": "evaluate.baseline", **against, "per_category": dict.fromkeys(UNSAFE_KINDS, against)},
    }  # fmt: skip


def build_summary(data: Dataset, told: dict[str, Any]) -> dict[str, Any]:
    """The summary of a whole loop, with plausible numbers; it is this fixture's, and no result of anything."""
    facts: dict[str, dict[str, Any]] = {
        "import": {"format": "coco", "images": 36, "failed": 0, "boxes": 21},
        "mine": {
            "mined": 96,
            "embedded": 5988,
            "search_s": 41.2,
            "explored": 9,
            "refused": {"sealed": 18, "unreadable": 12},
            "index": {"kind": "exact", "vectors": 5988, "recall_at_10": 1.0, "build_s": 0.2},
            "categories": {
                k: {"candidates": 160, "matches": 15 - i, "look_alikes": 2 + i} for i, k in enumerate(UNSAFE_KINDS)
            },
            "precision": {
                k: {
                    "p10": 1.0,
                    "p50": round(0.98 - 0.05 * i, 2),
                    "p100": round(0.9 - 0.1 * i, 2),
                    "prevalence": 0.0412,
                    "positives": 240 + i,
                    "found": 14 - i,
                    "recall": round((14 - i) / (240 + i), 4),
                }
                for i, k in enumerate(UNSAFE_KINDS)
            },
        },
        "quality": {"ok": 90, "dropped": 6},
        "dedup": {"images": 90, "groups": 8, "dropped": 10},
        "ground": {
            "images": 80,
            "boxes": 71,
            "found_nothing": 20,
            "images_per_s": 3.71,
            "boxes_by_category": {"knife": 16, "cigarette": 12, "bottle": 13, "pill": 11, "dice": 12, "text_area": 7},
            "removed_by_reason": {"same thing twice": 31, "look-alike": 44, "group of others": 3, "whole image": 6},
        },
        "review": {
            "human_actions": 412,
            "actions": {"accept": 268, "edit": 61, "draw": 24, "reject": 17, "confirm_empty": 42},
            "hours": 0.83,
            "seconds_per_action": {"accept": 4.0, "edit": 14.0, "draw": 21.0, "reject": 3.0, "confirm_empty": 5.0},
            "seconds_source": "published averages; no tool measured them",
            "queued_for": {"models disagree": 141, "near a threshold": 122, "at random": 57},
            "labels_before_review": {
                "mined": {
                    "images": 250,
                    "right": 181,
                    "shown": 214,
                    "present": 230,
                    "precision": 0.8458,
                    "recall": 0.787,
                },
            },
        },
        "generate": {
            "made": 40,
            "planned": 40,
            "by_category": dict.fromkeys(UNSAFE_KINDS, 8),
            "by_style": {"photo": 10, "cartoon": 10, "sketch": 10, "neon": 10},
        },
        "adherence": {
            "kept": 21,
            "dropped": 19,
            "acceptance": 0.525,
            "kept_by_category": {"knife": 4, "dice": 5},
            "worst_prompts": [{"prompt": "a photo of a pill in the dark", "kept": 0, "made": 3}],
            "reasons": {
                "asked for knife, nothing found": 7,
                "asked for pill, candy found": 7,
                "box covers everything": 5,
            },
        },
        "prove": {
            "kept": 10,
            "dropped": 11,
            "ratio": 0.5,
            "reason": "mean average precision gains +4.0 points (95 % interval +1.0 to +7.0) with 0.5 generated images for a real one",
            "made": 21,
            "metric": "mean_ap",
            "seeds": 3,
            "copies": {"images": 0, "share": 0.0, "allowed": 0.001},
            "val_images": 60,
            "val_shown": 40,
            "tried": [0.0, 0.5, 1.0],
            "score_by_ratio": {"0": 0.61, "0.5": 0.65, "1": 0.6},
            "score_by_seed": {"0": [0.6, 0.61, 0.62], "0.5": [0.65, 0.64, 0.66], "1": [0.6, 0.6, 0.6]},
            "images_by_ratio": {"0": 0, "0.5": 10, "1": 21},
            "gain_by_ratio": {"0.5": {"mean": 0.04, "ci95": [0.01, 0.07]}, "1": {"mean": -0.01, "ci95": [-0.04, 0.02]}},
            "slices_by_ratio": {"0.5": {}, "1": {}},
        },
        "label_made": {"images": 40, "as_asked": {"knife": 0.75, "pill": 0.625, "dice": 0.875}},
        "split": {"train": 150, "val": 20},
        "baseline.detector": {
            "steps": 300,
            "train_images": 36,
            "reviewed_images": 36,
            "made_images": 0,
            "val_images": 6,
        },
        "final.detector": {
            "steps": 300,
            "train_images": 171,
            "reviewed_images": 120,
            "made_images": 21,
            "val_images": 20,
        },
        "calibrate": {
            "val_images": 20,
            "ece_before": 0.118,
            "ece_after": 0.031,
            "per_category": {
                k: {"positives": 9 + i, "threshold": 0.41, "ece_before": 0.09 + i / 100, "ece_after": 0.03 - i / 400}
                for i, k in enumerate(UNSAFE_KINDS)
            },
        },
        "evaluate.baseline": measured(0.312, 0.405, 0.288, 0.034),
        "evaluate.random_same_effort": measured(0.521, 0.560, 0.474, 0.036),
        "evaluate.final": {**measured(0.784, 0.771, 0.702, 0.029), **told},
        "gate": {
            "passed": True,
            "reason": "recall at 5% false positives rose",
            "old": 0.312,
            "new": 0.784,
            "images": 60,
            "difference": {"mean": 0.472, "ci95": [0.421, 0.519]},
        },
        "package": {"bundle": "starter-1", "size_mb": 14.2, "files": 9},
        "moderate": {
            "images": 60,
            "decided_by_stage1": 51,
            "decided_by_stage2": 9,
            "corrected": 6,
            "harmed": 1,
            "accuracy_both_stages": 0.9333,
            "accuracy_stage1_alone": 0.85,
            "both_stages": {"precision": 0.91, "recall": 0.94, "f1": 0.9248},
            "stage1_alone": {"precision": 0.93, "recall": 0.78, "f1": 0.8484},
            "harm_only_in_text": {"images": 7, "recall_both_stages": 0.8571, "recall_stage1_alone": 0.0},
            "latency_ms": {
                "stage1": {"median": 11.2, "p95": 17.9},
                "ocr": {"median": 61.0, "p95": 96.0},
                "language": {"median": 9.5, "p95": 14.0},
                "total": {"median": 12.4, "p95": 98.2},
            },
        },
    }
    for name, part in facts["evaluate.final"].pop("parts").items():
        facts["evaluate.final"]["per_category"][name] |= {**part, "average_precision": estimate(0.9, 0.05)}
    seconds = {name: round(0.4 * 1.9 ** (len(json.dumps(fact)) % 11), 1) for name, fact in facts.items()}
    memory = {name: 420.0 + 90 * (len(name) % 7) for name in facts}
    artifacts = {
        f"evaluate.{who}": {f"evaluate.{who}.predictions": f"files/{who}/predictions.jsonl"}
        for who in ("baseline", "final")
    }
    digests = {
        "mine": {"starter:retrieval": "c2a4418e09fd"},
        "ground": {"starter:grounding": "5f0c9e3a71bd"},
        "generate": {"starter:diffusion": "91ba6d3077c4"},
        "final.detector": {"starter:detector": "7d00e1f25a3b"},
    }
    return {
        "recipe": "starter",
        "run": "first-loop",
        "policy": {"name": "starter", "version": 1},
        "seed": 7,
        "started": "2026-11-20T21:02:11Z",
        "finished": "2026-11-20T21:14:39Z",
        "version": data.at.number,
        "baseline": facts["evaluate.baseline"],
        "random_same_effort": facts["evaluate.random_same_effort"],
        "final": facts["evaluate.final"],
        "benchmark": several_seeds(),
        "human_actions": 412,
        "seconds": seconds,
        "peak_rss_mb": memory | {"run": 1384.0},
        "steps": {
            name: {
                "kind": name.split(".")[0].title(),
                "seconds": seconds[name],
                "facts": fact,
                "models": digests.get(name, {}),
                "version": data.at.number,
                "artifacts": artifacts.get(name, {}),
            }
            for name, fact in facts.items()
        },
    }


def build_run(folder: Path, policy: Policy) -> Dataset:
    """Write a run folder as a finished run leaves it, without its report."""
    folder.mkdir(parents=True, exist_ok=True)
    data = build_dataset(folder, policy)
    build_predictions(folder)
    (folder / "summary.json").write_text(json.dumps(build_summary(data, told(folder, policy)), indent=1))
    test = {"test": str(folder / "sealed"), "detector": "final.detector"}
    steps = [{"import": {"path": "labelled"}}, {"mine": {"corpus": "corpus"}}]
    steps += [{"evaluate": test, "as": f"evaluate.{who}"} for who in ("baseline", "random_same_effort", "final")]
    document = {"recipe": "starter", "policy": "../policies/starter.yaml", "seed": 7, "steps": steps}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return data
