"""A small finished run to report on: rendered scenes in a real dataset, and a summary of the kind that runs leave."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilth.claims import Claim
from tilth.dataset import Dataset
from tilth.events import Events
from tilth.images import encode_png
from tilth.policy import Policy
from tilth.samples import NewSample, Result, Sample
from tilth.starter.surfaces import SURFACES
from tilth.starter.world import LOOK_ALIKES, STYLES, UNSAFE_KINDS, Scene, Spec, render
from tilth.steps import step
from tilth.work import Failed, Work

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
    "accept": _accept,
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
    work("import.test").add(
        "b", _images(500, 60, STYLES, {"step": "import.test"}, "import:test/annotations.json", split="test")
    )
    mined: list[NewSample | Failed] = list(_images(100, 96, STYLES, {"step": "mine"}))
    mined += [
        Failed(name=f"corpus/{i:06d}.png", error="damaged image: image file is truncated") for i in (17, 204, 991)
    ]
    mined.append(Failed(name="corpus/003107.png", error="not an image of a known format"))
    work("mine").add("c", mined)
    is_mined = lambda s: s.origin["step"] == "mine"  # noqa: E731
    work("quality").map(Say(name="quality"), is_mined)
    work("dedup").map(Say(name="dedup"), is_mined)
    work("ground").map(Say(name="ground"), is_mined)
    work("review").map(Say(name="review"), lambda s: is_mined(s) and s.id[1] in "0123456789")
    made = (
        {"step": "generate", "prompt": f"a {k}", "seed": i, "model": "starter:diffusion"}
        for i, k in enumerate(UNSAFE_KINDS * 8)
    )
    work("generate").add(
        "d", (new(300 + i, str(o["prompt"])[2:], STYLES[i % 4], o, "synth:starter") for i, o in enumerate(made))
    )
    work("accept").map(Say(name="accept"), lambda s: s.made)
    work("split").map(Say(name="split"), lambda s: not s.split)
    data.tag("first-loop")
    events.close()
    return data


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
        "per_category": {name: three(d, 0.07) for name, d in off.items()},
        "per_slice": {name: three(d, 0.05) for name, d in gap.items()},
    }


def build_summary(data: Dataset) -> dict[str, Any]:
    """The summary of a whole loop, with plausible numbers; it is this fixture's, and no result of anything."""
    ranks = (10, 25, 50, 100, 200, 400)
    facts: dict[str, dict[str, Any]] = {
        "import": {"format": "coco", "images": 36, "failed": 0, "boxes": 21},
        "import.test": {"format": "coco", "images": 60, "failed": 0, "boxes": 33},
        "mine": {
            "corpus_images": 6000,
            "mined": 96,
            "by_category": {"knife": 20, "cigarette": 16, "bottle": 15, "pill": 14, "dice": 18, "text_area": 13},
            "precision_by_rank": {
                k: {str(r): round(max(0.3, 1 - (i + 1) * r / 3000), 3) for r in ranks}
                for i, k in enumerate(UNSAFE_KINDS)
            },
        },
        "quality": {"ok": 90, "dropped": 6},
        "dedup": {"ok": 80, "dropped": 10},
        "ground": {"ok": 80, "boxes": 71, "images_without_boxes": 20},
        "review": {
            "human_actions": 412,
            "actions": {"accept": 268, "edit": 61, "draw": 24, "reject": 17, "confirm_empty": 42},
            "hours": 0.83,
            "seconds_per_action": {"accept": 4.0, "edit": 14.0, "draw": 21.0, "reject": 3.0, "confirm_empty": 5.0},
            "seconds_source": "published averages; no tool measured them",
        },
        "generate": {"made": 40},
        "accept": {
            "accepted": 21,
            "rejected_by_reason": {"classifier disagrees": 7, "text score": 7, "copy of its parent": 5},
        },
        "split": {"train": 150, "val": 20},
        "baseline.detector": {"epochs": 40, "train_images": 36},
        "final.detector": {"epochs": 40, "train_images": 171},
        "final.classifier": {
            "epochs": 12,
            "calibration": {
                "before": {"ece": 0.118, "bins": [[0.05, 0.02], [0.25, 0.12], [0.5, 0.31], [0.75, 0.55], [0.95, 0.83]]},
                "after": {"ece": 0.021, "bins": [[0.05, 0.05], [0.25, 0.24], [0.5, 0.52], [0.75, 0.73], [0.95, 0.96]]},
            },
        },
        "evaluate.baseline": measured(0.312, 0.405, 0.288, 0.034),
        "evaluate.random_same_effort": measured(0.521, 0.560, 0.474, 0.036),
        "evaluate.final": measured(0.784, 0.771, 0.702, 0.029),
        "gate": {
            "passed": True,
            "checks": [
                {
                    "check": "recall at 5 % false positives is not worse",
                    "baseline": 0.312,
                    "final": 0.784,
                    "passed": True,
                },
                {"check": "no category falls by more than 5 points", "baseline": 0.232, "final": 0.704, "passed": True},
            ],
        },
        "package": {"size_mb": 14.2, "files": 9},
        "moderate": {
            "stage1_decided": 51,
            "sent_on": 9,
            "corrected": 6,
            "harmed": 1,
            "stage1_ms": {"p50": 11.2, "p95": 17.9},
            "full_ms": {"p50": 118.0, "p95": 196.0},
        },
    }
    seconds = dict(
        zip(
            facts,
            (4.1, 6.0, 212.4, 9.3, 21.7, 148.0, 0.4, 61.2, 12.9, 0.2, 88.0, 95.1, 41.0, 9.1, 9.0, 9.3, 0.1, 6.6, 13.5),
            strict=True,
        )
    )
    memory = {name: 420.0 + 90 * (len(name) % 7) for name in facts}
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
                "artifacts": {},
            }
            for name, fact in facts.items()
        },
    }


def build_run(folder: Path, policy: Policy) -> Dataset:
    """Write a run folder as a finished run leaves it, without its report."""
    folder.mkdir(parents=True, exist_ok=True)
    data = build_dataset(folder, policy)
    (folder / "summary.json").write_text(json.dumps(build_summary(data), indent=1))
    (folder / "recipe.yaml").write_text(
        "recipe: starter\npolicy: ../policies/starter.yaml\nseed: 7\nsteps:\n- import: {path: labelled}\n- mine: {}\n"
    )
    return data
