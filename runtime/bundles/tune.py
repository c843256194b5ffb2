"""Measure which back end runs each graph of Stage 1 fastest on this machine, of those that give the reference's answers on real images.

The reference is onnxruntime in float32, which export has held to torch. Back ends take turns, so that what else the machine does slows
all of them alike.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tilth.encoders.fusion import finite
from tilth.errors import InputError, TilthError
from tilth.geometry import iou
from tilth.images import Image
from tilth.runtime.bundles.bundle import OUTPUTS, digest_of, in_use, load_bundle, open_part
from tilth.runtime.bundles.tuned import Measured, Part, Tuned, machine, write_tuned
from tilth.runtime.stages.graphs import BACK_ENDS, REFERENCE, Graph
from tilth.runtime.stages.stage1 import Floats, Found, Stage1, prepared

BATCH = 8  # images of the larger batch
TURNS = (5, 41)  # of every back end: at least, and at most; the median counts
ENOUGH_S = 1.5  # after so long no further turn begins
SCORE_GAP = 0.05  # the most by which a served score may differ from the reference's
BOXES_KEPT = 0.98  # share of the reference's boxes that must be shown as well
SAME_PLACE_IOU = 0.8
WORTH = 0.95  # a back end must take less than this share of the reference's time to be taken
MOST_IMAGES = 64  # more would not tell more


def tune(
    folder: Path,
    images: Sequence[Image],
    *,
    made: str = "",
    threads: int = 0,
    back_ends: Sequence[str] = BACK_ENDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Tuned:
    """Measure every back end with every graph, and write what was found beside the bundle's seal.

    Args:
        folder: The bundle, or a champion.
        images: Like those that will come; the first 64 count. The bundle keeps none of them.
        made: Now.
        threads: As the bundle will be served with.
        back_ends: Which to try; the reference is always.
        clock: Seconds.

    Raises:
        InputError: The folder is no bundle, or there are no images.
        ModelError: A file was changed, or the reference says what is no number.
    """
    folder = in_use(Path(folder))
    if not images:
        raise InputError(
            "to measure back ends takes images like those that will come; a few dozen are enough, got none"
        )
    stage1 = load_bundle(folder, threads=threads, tuned=False).stage1
    some = list(images[:MOST_IMAGES])
    parts = {name: _measure(folder, stage1, name, some, threads, back_ends, clock) for name in _parts(stage1)}
    tuned = Tuned(
        bundle=digest_of(folder), machine=machine(), made=made, images=len(some), batch=BATCH, graphs=parts
    )  # fmt: skip
    write_tuned(folder, tuned)
    return tuned


def _parts(stage1: Stage1) -> list[str]:
    return ["classifier", *(["detector"] if stage1.detector else [])]


def _measure(
    folder: Path,
    stage1: Stage1,
    name: str,
    images: Sequence[Image],
    threads: int,
    back_ends: Sequence[str],
    clock: Callable[[], float],
) -> Part:
    """Measure one graph on all back ends and choose the fastest of those that answer as the reference does."""
    model = getattr(stage1, name)
    graphs: dict[str, Graph] = {REFERENCE: model.graph}
    rows: dict[str, Measured] = {REFERENCE: Measured(back_end=REFERENCE)}
    said = _answers(stage1, images)
    # a box at the threshold may fall on either side of it
    lenient = {"score_threshold": max(0.0, model.score_threshold - SCORE_GAP)} if name == "detector" else {}
    for back_end in [each for each in back_ends if each != REFERENCE]:
        try:
            graph = open_part(folder, name, threads=threads, back_end=back_end)
            other = _answers(replace(stage1, **{name: replace(model, graph=graph, **lenient)}), images)
        except Exception as error:  # noqa: BLE001  # one that cannot be had is told, and not taken
            why = str(error) if isinstance(error, TilthError) else f"{type(error).__name__}: {error}"
            rows[back_end] = Measured(back_end=back_end, refused=why.splitlines()[0][:200])
            continue
        rows[back_end] = _compared(back_end, said, other)
        graphs[back_end] = graph
    for some, column in ((images[:1], "ms_one"), ((list(images) * BATCH)[:BATCH], "ms_batch")):
        [pixels] = prepared(some, [model.prepare])
        for back_end, ms in _milliseconds(graphs, name, pixels, clock).items():
            rows[back_end] = rows[back_end].model_copy(update={column: round(ms / len(some), 3)})
    taken = [row for row in rows.values() if not row.refused and row.back_end != REFERENCE]
    best = min(taken, key=_cost, default=rows[REFERENCE])
    if _cost(best) > WORTH * _cost(rows[REFERENCE]):
        best = rows[REFERENCE]
    return Part(back_end=best.back_end, measured=tuple(rows.values()))


def _cost(row: Measured) -> float:
    """Return the geometric mean of an image's time alone and in a batch, so that neither a service nor a scan is forgotten."""
    return float(np.sqrt(row.ms_one * row.ms_batch))


def _milliseconds(
    graphs: Mapping[str, Graph], name: str, pixels: Floats, clock: Callable[[], float]
) -> dict[str, float]:
    """Return the median time of a call on each back end, which take turns; the first call of each does not count."""
    taken: dict[str, list[float]] = {back_end: [] for back_end in graphs}
    least, most = TURNS
    start = clock()
    for turn in range(most + 1):
        if turn > least and clock() - start > ENOUGH_S:
            break
        for back_end, graph in graphs.items():
            began = clock()
            graph.run(OUTPUTS[name], {"pixels": pixels})
            if turn:
                taken[back_end].append(1000 * (clock() - began))
    return {back_end: float(np.median(times)) for back_end, times in taken.items()}


def _answers(stage1: Stage1, images: Sequence[Image]) -> tuple[Floats, list[tuple[Found, ...]]]:
    """Return the scores `(n, k)` of images and their boxes, in batches of the size that is measured."""
    scores, boxes = [], []
    for start in range(0, len(images), BATCH):
        for screen in stage1(images[start : start + BATCH]):
            scores.append(list(screen.scores.values()))
            boxes.append(screen.boxes)
    return np.asarray(finite(scores, "Stage 1"), np.float32), boxes


def _compared(
    back_end: str,
    reference: tuple[Floats, list[tuple[Found, ...]]],
    other: tuple[Floats, list[tuple[Found, ...]]],
) -> Measured:
    """Hold the answers of a back end to those of the reference."""
    gap = float(np.abs(reference[0] - other[0]).max())
    kept = [_is_shown(found, boxes) for all_, boxes in zip(reference[1], other[1], strict=True) for found in all_]
    share = float(np.mean(kept)) if kept else 1.0
    refused = ""
    if gap > SCORE_GAP:
        refused = f"a score differs from {REFERENCE}'s by {gap:.3f}, the limit is {SCORE_GAP}"
    elif share < BOXES_KEPT:
        refused = f"it shows {share:.1%} of {REFERENCE}'s boxes, the limit is {BOXES_KEPT:.0%}"
    return Measured(back_end=back_end, score_gap=round(gap, 5), boxes_kept=round(share, 4), refused=refused)


def _is_shown(found: Found, boxes: Sequence[Found]) -> bool:
    alike = [other.box_xyxy for other in boxes if other.category == found.category]
    return bool(alike) and float(iou(np.array([found.box_xyxy]), np.array(alike)).max()) >= SAME_PLACE_IOU


def table(tuned: Tuned) -> str:
    """Write what was measured for people, the back end in use marked with a star."""
    lines = [f"{'graph':11} {'back end':15} {'ms alone':>9} {f'ms of {tuned.batch}':>9} {'score gap':>10} {'boxes':>6}"]
    for name, part in tuned.graphs.items():
        for row in part.measured:
            star = "*" if row.back_end == part.back_end else " "
            numbers = f"{row.ms_one:9.2f} {row.ms_batch:9.2f} {row.score_gap:10.5f} {row.boxes_kept:6.1%}"
            known = numbers if row.ms_one else f"{'':9} {'':9} {'':10} {'':6}"
            lines.append(f"{name:11} {row.back_end:15}{star}{known} {row.refused}".rstrip())
    return "\n".join(lines)
