"""Let images through both stages: as a step over the sealed test images, with what Stage 2 changed, or over files."""

import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tilth.claims import Json
from tilth.engine.job import batched
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import decode
from tilth.runtime.bundles.bundle import load_bundle
from tilth.runtime.serving.doubts import Doubts
from tilth.runtime.stages.cascade import Moderator, Verdict
from tilth.sources.walk import images_in

BATCH = 16


def image_files(paths: Sequence[Path]) -> list[Path]:
    """List the image files among files and folders, sorted.

    Raises:
        InputError: A path is absent.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        inside = images_in(path) if path.is_dir() else [path]
        found += inside
    return found


def moderate_files(
    bundle: Path, paths: Sequence[Path], keeping: Callable[[Moderator], Doubts] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the verdict on each file; a damaged file is a row with its error.

    Args:
        bundle: Folder that `package` made.
        paths: Files and folders.
        keeping: Makes what keeps the doubts; they are kept before a verdict is yielded.
    """
    files = image_files(paths)
    moderator = load_bundle(bundle)
    with closing(keeping(moderator)) if keeping else nullcontext() as doubts:
        for path in files:
            try:
                data = path.read_bytes()
                [verdict] = moderator.moderate([decode(data)])
            except InputError as error:
                yield {"file": str(path), "error": str(error)}
                continue
            if doubts is not None:
                doubts.keep(data, verdict)
            yield {"file": str(path), **verdict_row(verdict)}


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """Write a verdict as plain values."""
    return {
        "action": verdict.action.value,
        "stage": verdict.stage,
        "reason": verdict.reason,
        **({"degraded": verdict.degraded} if verdict.degraded else {}),
        "scores": {k: round(v, 4) for k, v in verdict.scores.items()},
        "text": verdict.text,
        "ms": {k: round(v, 1) for k, v in verdict.timings_ms.items()},
    }


@step
class Moderate:
    """Moderate the sealed test images through both stages and say what Stage 2 changed.

    An image is unsafe when the truth names a picture category of the policy that is no signpost, or a text category.

    Args:
        images: Folder of test images.
        truth: Truth of the test images, JSON lines with `file`, `split`, `labels` and `text_category`.
        split: Which lines of the truth these images are.
        bundle: Name of the bundle artifact.
    """

    images: Path
    truth: Path
    refers: ClassVar[tuple[str, ...]] = ("bundle",)

    split: str = "test"
    bundle: str = "bundle"

    def inputs(self) -> tuple[Path, ...]:
        """Name the images and their truth."""
        return (self.images, self.truth)

    def run(self, work: Work) -> Facts:
        """Judge every image once with both stages and once with Stage 1 alone."""
        rows = [json.loads(line) for line in self.truth.read_text().splitlines()]
        rows = [row for row in rows if row["split"] == self.split]
        moderator = load_bundle(work.artifact(self.bundle))
        stage1_alone = replace(moderator, stage2=None, reader=None)
        out = work.folder / "verdicts.jsonl"
        done = _done(out)
        began = time.monotonic()
        with work.events.progress(work.name, len(rows)) as advance, out.open("a") as stream:
            advance(len(done))
            for batch in batched((r for r in rows if r["file"] not in done), BATCH):
                images = [decode((self.images / row["file"]).read_bytes()) for row in batch]
                for row, image, verdict in zip(batch, images, moderator.moderate(images), strict=True):
                    alone = verdict if verdict.stage == 1 else stage1_alone.moderate([image])[0]
                    first = {"file": row["file"], "id": row["id"], "stage1_action": alone.action.value}
                    told = {**first, **verdict_row(verdict)}
                    stream.write(json.dumps(told) + "\n")
                stream.flush()
                advance(len(batch))
        work.publish("verdicts", out)
        seconds = time.monotonic() - began
        verdicts = list(_done(out).values())
        return {
            **compare(rows, verdicts, work.policy.signposts),
            "seconds_moderating": round(seconds, 1),
            "images_per_s": round((len(rows) - len(done)) / max(seconds, 1e-6), 1),
        }


def _done(path: Path) -> dict[str, dict[str, Any]]:
    """Read the verdicts that a killed run left; a torn last line is forgotten."""
    found = {}
    if path.exists():
        whole = path.read_text().rpartition("\n")[0]
        path.write_text(whole + "\n" if whole else "")
        found = {row["file"]: row for row in map(json.loads, whole.splitlines())}
    return found


def compare(
    truth: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]], signposts: Collection[str]
) -> dict[str, Json]:
    """Count what each stage decided, and how often Stage 2 put Stage 1 right or wrong.

    Args:
        truth: Of the images, a row each.
        verdicts: Of the images, a row each.
        signposts: Categories of the truth that make no image unsafe.
    """
    pictured = {row["file"]: any(label["category"] not in signposts for label in row["labels"]) for row in truth}
    unsafe_by_file = {row["file"]: pictured[row["file"]] or bool(row["text_category"]) for row in truth}
    counts: Counter[str] = Counter()
    rights: dict[str, list[bool]] = {"both_stages": [], "stage1_alone": []}
    latencies: dict[str, list[float]] = {"stage1": [], "ocr": [], "language": [], "total": [], "total_stage2": []}
    words: list[tuple[bool, bool]] = []
    for verdict in verdicts:
        unsafe = unsafe_by_file[verdict["file"]]
        flagged, alone = verdict["action"] != "allow", verdict["stage1_action"] != "allow"
        counts[f"decided_by_stage{verdict['stage']}"] += 1
        if alone != flagged:
            counts["corrected" if flagged == unsafe else "harmed"] += 1
        rights["both_stages"].append(flagged == unsafe)
        rights["stage1_alone"].append(alone == unsafe)
        if unsafe and not pictured[verdict["file"]]:
            words.append((flagged, alone))
        for part, ms in verdict["ms"].items():
            latencies.setdefault(part, []).append(ms)
        if verdict["stage"] == 2:
            latencies["total_stage2"].append(verdict["ms"]["total"])
    return {
        "images": len(verdicts),
        "degraded": sum("degraded" in verdict for verdict in verdicts),  # the language model did not judge their words
        **{k: counts[k] for k in ("decided_by_stage1", "decided_by_stage2", "corrected", "harmed")},
        **{f"accuracy_{name}": round(float(np.mean(right)), 4) for name, right in rights.items()},
        **_flags(verdicts, unsafe_by_file),
        "harm_only_in_text": {
            "images": len(words),
            "recall_both_stages": round(float(np.mean([a for a, _ in words])), 4) if words else None,
            "recall_stage1_alone": round(float(np.mean([b for _, b in words])), 4) if words else None,
        },
        "latency_ms": {
            part: {"median": round(float(np.median(ms)), 1), "p95": round(float(np.percentile(ms, 95)), 1)}
            for part, ms in latencies.items()
            if ms
        },
    }


def _flags(verdicts: Sequence[dict[str, Any]], unsafe: Mapping[str, bool]) -> dict[str, Json]:
    """Return precision, recall and F1 of "somebody needs to look", with and without Stage 2."""
    told: dict[str, Json] = {}
    truth = np.array([unsafe[v["file"]] for v in verdicts])
    for name, key in (("both_stages", "action"), ("stage1_alone", "stage1_action")):
        said = np.array([v[key] != "allow" for v in verdicts])
        hits = int((said & truth).sum())
        precision, recall = hits / max(1, int(said.sum())), hits / max(1, int(truth.sum()))
        told[name] = {
            "precision": round(precision, 4),
            "recall": round(recall, 4),
            "f1": round(2 * precision * recall / max(1e-9, precision + recall), 4),
        }
    return told
