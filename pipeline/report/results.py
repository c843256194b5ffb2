"""What the run achieved: headline, systems side by side, the gate, drift, calibration, Stage 2."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from markupsafe import Markup

from tilth.pipeline.report.cases import Cases, category_rows, picture_rows
from tilth.pipeline.report.numbers import Numbers, capital, plain
from tilth.pipeline.report.parts import (
    METRICS,
    Block,
    Figure,
    Note,
    Section,
    Strip,
    Table,
    bars_table,
    evaluations,
    metrics_of,
    some,
    steps_of,
)
from tilth.pipeline.report.pictures import Album
from tilth.pipeline.report.plots import Part, stacked
from tilth.pipeline.report.tested import compare, compared, curves

HEADLINE_METRIC = {"recall_at_fpr05": "Recall at 5\u202f% false positives", "map50": "mAP at IoU 0.50", "f1": "F1"}


def headline(numbers: Numbers) -> Markup:
    """Say in one sentence what the run achieved, with its numbers."""
    systems = evaluations(numbers)
    known = {m: [s for s, (key, _, _) in systems.items() if numbers.point(f"{key}.{m}")] for m in HEADLINE_METRIC}
    metric = next((m for m, measured in known.items() if measured), "")
    if not metric:
        return Markup("{} images, {} of them with labels, and nothing measured yet.").format(
            numbers.show("dataset.samples", "count"), numbers.show("dataset.labelled", "count")
        )
    keys = {system: f"{systems[system][0]}.{metric}" for system in known[metric]}
    mean = {system: numbers.show(f"{key}.mean", "percent", 0) for system, key in keys.items()}
    actions = Markup("")
    if numbers.get("human_actions"):
        actions = Markup(" with {} human actions").format(numbers.show("human_actions", "count"))
    if not {"baseline", "final"} <= mean.keys():
        return Markup("{} is {}{}.").format(HEADLINE_METRIC[metric], list(mean.values())[-1], actions)
    verb = change(numbers.point(keys["baseline"]), numbers.point(keys["final"]))
    between = (
        Markup("at {}").format(mean["final"])
        if verb == "stayed"
        else Markup("from {} to {}").format(mean["baseline"], mean["final"])
    )
    said = Markup("{} {} {}{}").format(HEADLINE_METRIC[metric], verb, between, actions)
    if "random_same_effort" in mean:
        said += Markup("; random labelling with the same effort reached {}").format(mean["random_same_effort"])
    return said + "."


def change(before: Sequence[float] | None, after: Sequence[float] | None) -> str:
    """Find the verb for a change.

    >>> change((0.31, 0.28, 0.34), (0.78, 0.74, 0.81)), change((0.5, 0.4, 0.6), (0.5, 0.4, 0.6))
    ('rose', 'stayed')
    """
    if not before or not after or f"{before[0]:.0%}" == f"{after[0]:.0%}":
        return "stayed"
    return "rose" if after[0] > before[0] else "fell"


def certainty(numbers: Numbers) -> Note | None:
    """Say whether the intervals of the first metric keep apart."""
    systems = evaluations(numbers)
    metric = next((m for m in HEADLINE_METRIC if numbers.point(f"final.{m}")), "")
    if "final" not in systems or not metric:
        return None
    parts, good = [], True
    final = numbers.point(f"final.{metric}")
    for other, words in (("baseline", "the baseline"), ("random_same_effort", "random labelling with the same effort")):
        point = numbers.point(f"{other}.{metric}") if other in systems else None
        if point is None or final is None or final[1] == final[2]:
            continue
        above, below = final[1] > point[2], final[2] < point[1]
        good &= above
        verdict = "lies above" if above else "lies below" if below else "overlaps"
        parts.append(f"{verdict} that of {words}")
    if not parts:
        return None
    said = f"The final 95\u202f% interval {' and '.join(parts)}"
    said += "." if good else "; where they overlap, the difference may be chance." if "overlaps" in said else "."
    return Note(text=said, tone="good" if good else "plain")


def results(numbers: Numbers) -> Section:
    """Compare the systems on the sealed test set."""
    systems = evaluations(numbers)
    names = list(dict.fromkeys(m for key, _, _ in systems.values() for m in metrics_of(numbers, key)))
    names = [m for m in METRICS if m in names] + [m for m in names if m not in METRICS]
    table = compare(numbers, [(m, m) for m in names], "On the sealed test set, with 95\u202f% intervals", "measure")
    base = next((key for key, _, _ in reversed(systems.values()) if numbers.has(f"{key}.n_images")), "")
    unsafe = Markup(", {} of them unsafe,").format(numbers.show(f"{base}.n_unsafe", "count"))
    lead = Markup("Measured on {} images{} that were never mined, trained on, tuned on or generated from.").format(
        numbers.show(f"{base}.n_images", "count"), unsafe if numbers.has(f"{base}.n_unsafe") else ""
    )
    opened = [f"{key}.test_opened" for key, _, _ in systems.values() if numbers.has(f"{key}.test_opened")]
    if times := max(opened, key=numbers.get, default=""):
        lead += Markup(
            " Evaluations of this dataset have opened them {} times by now; what is chosen by them fits them a little better each time."
        ).format(numbers.show(times, "count"))
    parts = (
        certainty(numbers),
        table,
        *compared(numbers),
        *curves(numbers),
        _operating(numbers),
    )
    blocks = some(*parts) if table else []
    return Section(id="results", title="What it achieved", short="Results", lead=lead if base else "", blocks=blocks)


def _operating(numbers: Numbers) -> Table | None:
    """Say what the thresholds reach that were chosen for an aim of the policy."""
    rows: list[list[str | Markup]] = []
    for key, name, _ in evaluations(numbers).values():
        points = numbers.get(f"{key}.operating_points")
        for category in points if isinstance(points, Mapping) else ():
            at = f"{key}.operating_points.{category}"
            [(aim, _share)] = numbers.get(f"{at}.aim").items()
            asked = Markup("{} {}").format(capital(plain(aim)), numbers.show(f"{at}.aim.{aim}", "percent"))
            found = [numbers.estimate(f"{at}.{what}") for what in ("recall", "precision", "false_positives")]
            rows.append([f"{capital(category)}, {name}", asked, *found])
    head = ["category, system", "the policy asks for", "recall", "precision", "false positives"]
    caption = "At the thresholds that are served for an aim of the policy"
    return Table(caption=caption, head=head, rows=rows) if rows else None


def pictures_of_change(numbers: Numbers, cases: Cases | None, album: Album) -> Section:
    """Show test images that changed sides, what is still wrong, and what is taken for what."""
    section = Section(id="cases", title="What changed, picture by picture", short="Pictures")
    if cases is None:
        return section
    blocks: list[Block] = []
    note = "Green is the truth, blue dashes what the model found, red dashes a false alarm; below stand category and score as served."
    if rows := category_rows(cases, album, "caught"):
        blocks.append(Strip(title=cases.headings()["caught"], rows=rows, note=note))
    if rows := picture_rows(cases, album, ["lost", "missed", "false_alarms"]):
        blocks.append(
            Strip(title="What is still wrong, the hardest of each kind first", rows=rows, note="" if blocks else note)
        )
    lead = Markup(
        "Of the unsafe test images, the new model catches {} that {} missed, and misses {} that it caught; "
        "{} are missed by both. False alarms on safe images, which the operating point allows: {}."
    ).format(
        numbers.show("cases.caught", "count"),
        cases.before,
        *(numbers.show(f"cases.{kind}", "count") for kind in ("lost", "missed", "false_alarms")),
    )
    if not cases.before:
        lead = Markup(
            "At 5\u202f% false positives the model misses {} unsafe test images and raises an alarm on {} safe ones."
        ).format(*(numbers.show(f"cases.{kind}", "count") for kind in ("missed", "false_alarms")))
        section = replace(section, title="What is still wrong, picture by picture")
    absent = Note(text="The pictures are not shown: the test folder of the recipe is not here.")
    return replace(section, lead=lead, blocks=blocks or [absent])


def gate(numbers: Numbers) -> Section:
    """Say what the gate decided and why."""
    blocks: list[Block] = []
    for name in steps_of(numbers, "gate"):
        base = f"steps.{name}.facts"
        good = numbers.get(f"{base}.passed") is True
        verdict = "The gate let the new model pass." if good else "The gate kept the old model."
        blocks.append(Note(text=verdict, tone="good" if good else "bad"))
        if numbers.point(f"{base}.difference"):
            row: list[str | Markup] = [
                "Recall at 5\u202f% false positives",
                numbers.show(f"{base}.old", "percent"),
                numbers.show(f"{base}.new", "percent"),
                numbers.estimate(f"{base}.difference"),
                numbers.show(f"{base}.images", "count"),
            ]
            head = ["measure", "old model", "new model", "difference, paired", "images"]
            blocks.append(Note(text=str(numbers.get(f"{base}.reason")), tone="good" if good else "bad"))
            blocks.append(Table(caption="The same images, judged by both", head=head, rows=[row]))
        groups = numbers.get(f"{base}.groups")
        if isinstance(groups, dict) and groups:
            rows: list[list[str | Markup]] = [
                [
                    capital(group),
                    numbers.show(f"{base}.groups.{group}.old", "percent"),
                    numbers.show(f"{base}.groups.{group}.new", "percent"),
                    numbers.show(f"{base}.groups.{group}.positives", "count"),
                ]
                for group in groups
            ]
            head = ["part of the test set", "old model", "new model", "images that show it"]
            blocks.append(Table(caption="Recall at 5\u202f% false positives, part by part", head=head, rows=rows))
    lead = "A new model replaces the old one only if it did not lose recall on the same images, nor surely on any part of them."
    return Section(id="gate", title="The gate", short="Gate", lead=lead, blocks=blocks)


def drift(numbers: Numbers) -> Section:
    """Say whether what comes in still looks like what the model in use was made from."""
    blocks: list[Block] = []
    for name in steps_of(numbers, "drift"):
        base = f"steps.{name}.facts"
        series = numbers.get(f"{base}.series")
        if not isinstance(series, Mapping) or not series:
            if numbers.has(f"{base}.reason"):
                blocks.append(Note(text=capital(str(numbers.get(f"{base}.reason"))) + "."))
            continue
        found = list(numbers.get(f"{base}.drifted") or [])
        verdict = f"moved: {', '.join(found)}." if found else "moved no more than chance and custom allow."
        said = Markup("{} images came since, beside {} from before; they have {}").format(
            *(numbers.show(f"{base}.{side}", "count") for side in ("images_since", "images_before")), verdict
        )
        blocks.append(Note(text=said, tone="bad" if found else "good"))
        rows: list[list[str | Markup]] = [
            [
                capital(each),
                numbers.estimate(f"{base}.series.{each}.psi", "number"),
                *(numbers.show(f"{base}.series.{each}.{what}", "number") for what in ("psi_of_chance", "ks", "p")),
            ]
            for each in series
        ]
        head = ["what", "population stability index", "the index of chance", "Kolmogorov-Smirnov", "p value"]
        caption = "How far the images that came since lie from those before"
        blocks.append(Table(caption=caption, head=head, rows=rows))
    lead = "Scores and measured numbers of new images, beside those of the images that the bundle in use was made from."
    return Section(id="drift", title="Drift", short="Drift", lead=lead, blocks=blocks)


def calibration(numbers: Numbers) -> Section:
    """Show how far scores are probabilities, before and after calibration."""
    blocks: list[Block] = []
    for name in steps_of(numbers, "calibrate"):
        base = f"steps.{name}.facts"
        categories = list(numbers.get(f"{base}.per_category") or {})
        rows = [("All categories", [f"{base}.ece_before", f"{base}.ece_after"])]
        rows += [(c, [f"{base}.per_category.{c}.{m}" for m in ("ece_before", "ece_after")]) for c in categories]
        points = [point[2] for _, keys in rows for key in keys if (point := numbers.point(key))]
        series = [("before", "c-baseline"), ("after", "c-final")]
        blocks += some(
            bars_table(numbers, rows, series, f"{name}: calibration error (ECE)", "category", max(points, default=1.0))
        )
    lead = "A calibrated score of 0.8 is right eight times in ten; only then do thresholds mean what they say."
    return Section(id="calibration", title="Calibration", short="Calibration", lead=lead, blocks=blocks)


SIDES = [("Stage 1 alone", "c-baseline", "stage1_alone"), ("both stages", "c-final", "both_stages")]


def stage2(numbers: Numbers) -> Section:
    """Show what Stage 2 changed."""
    blocks: list[Block] = []
    for name in steps_of(numbers, "moderate"):
        base = f"steps.{name}.facts"
        parts = [
            Part(name=words, css=css, value=float(numbers.get(f"{base}.{fact}")), shown=numbers.show(f"{base}.{fact}"))
            for fact, words, css in (
                ("decided_by_stage1", "decided by Stage 1", "c-1"),
                ("decided_by_stage2", "sent on and decided by Stage 2", "c-2"),
            )
            if numbers.has(f"{base}.{fact}")
        ]
        if parts:
            blocks.append(Figure(drawing=stacked(parts, "Which stage decided"), title="Which stage decided"))
        if numbers.has(f"{base}.corrected"):
            text = Markup("Stage 2 put {} images right that Stage 1 alone would have got wrong, and {} wrong.").format(
                numbers.show(f"{base}.corrected", "count"), numbers.show(f"{base}.harmed", "count")
            )
            better = numbers.get(f"{base}.corrected") >= (numbers.get(f"{base}.harmed") or 0)
            blocks.append(Note(text=text, tone="good" if better else "bad"))
        rows = [(m, [f"{base}.{side}.{m}" for _, _, side in SIDES]) for m in ("recall", "precision", "f1")]
        rows.append(("accuracy", [f"{base}.accuracy_{side}" for _, _, side in SIDES]))
        rows.append(
            (
                "recall of harm that is only in words",
                [f"{base}.harm_only_in_text.{m}" for m in ("recall_stage1_alone", "recall_both_stages")],
            )
        )
        series = [(words, css) for words, css, _ in SIDES]
        blocks += some(bars_table(numbers, rows, series, "Somebody needs to look: is it said so?", "measure"))
        blocks += some(_latency(numbers, f"{base}.latency_ms"))
    lead = (
        "Stage 1 looks at pixels. What it cannot decide goes to Stage 2, which reads the words and never sees pixels."
    )
    return Section(id="stage2", title="What Stage 2 changed", short="Stage 2", lead=lead, blocks=blocks)


LATENCIES = {
    "stage1": "Stage 1",
    "ocr": "reading words",
    "language": "judging words",
    "total": "whole image",
    "total_stage2": "whole image, if Stage 2 was asked",
}


def _latency(numbers: Numbers, key: str) -> Table | None:
    found = numbers.get(key)
    if not isinstance(found, Mapping) or not found:
        return None
    rows = [(LATENCIES.get(str(part), str(part)), [f"{key}.{part}.{m}" for m in ("median", "p95")]) for part in found]
    top = max(float(v["p95"]) for v in found.values() if isinstance(v, Mapping) and v.get("p95") is not None)
    series = [("median", "c-1"), ("95\u202f% of images are faster", "c-8")]
    return bars_table(numbers, rows, series, "Latency for one image, milliseconds", "part", top or 1.0, unit="ms")
