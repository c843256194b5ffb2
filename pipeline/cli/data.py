"""The commands that look at a dataset as it is, such as `history`, `count` and `export`; and `provenance`, which looks at files."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilth.data.where import check_named, unmeasured
from tilth.errors import InputError
from tilth.pipeline.cli import streams
from tilth.pipeline.cli.settings import DatasetPath, existing
from tilth.samples import IMAGE, MEDIA, SOUND, TEXT

if TYPE_CHECKING:
    from tilth.data.dataset import Dataset

# command -> what its example gives after the dataset
EXAMPLES = {
    "history": "",
    "diff": " 3 7",
    "tag": " clean",
    "rollback": " clean",
    "count": ' --by state --by split --where "quality.sharpness >= 20"',
    "explain": " 3f9a",
    "export": " out/coco --format coco",
    "gallery": " --policy configs/policies/starter.yaml --out gallery",
}


Where = Annotated[
    str,
    typer.Option(help="Keep the samples that this holds for, as in \"state = 'auto' and quality.sharpness < 20\"."),
]


def history(dataset: DatasetPath) -> None:
    """List the versions of a dataset, with their tags."""
    from tilth.data.dataset import Dataset

    opened = existing(dataset)
    tags = {number: tag for tag, number in opened.tags().items()}
    for version in Dataset(dataset).history():
        typer.echo(f"{version.number:>4}  {version.time}  {version.message}  {tags.get(version.number, '')}".rstrip())


def diff(
    dataset: DatasetPath,
    before: Annotated[str, typer.Argument(help="Version or tag.")],
    after: Annotated[str, typer.Argument(help="Version or tag; the newest when left out.")] = "",
) -> None:
    """Say which samples came, went or changed their labels between two versions."""
    from tilth.pipeline.versions import diff_versions

    for line in diff_versions(existing(dataset), before, after or None):
        typer.echo(json.dumps(line))


def tag(
    dataset: DatasetPath,
    name: str,
    version: Annotated[str, typer.Option(help="Version or tag; the newest when empty.")] = "",
) -> None:
    """Name a version."""
    opened = existing(dataset)
    chosen = opened.checkout(version) if version else opened
    chosen.tag(name)
    typer.echo(f"version {chosen.at.number} is now {name!r}; go back to it with: tilth rollback {dataset} {name}")


def rollback(
    folder: Annotated[Path, typer.Argument(help="Dataset, or champion.")],
    version: Annotated[
        str,
        typer.Argument(help="Version or tag to go back to; of a champion its bundle, the one before when left out."),
    ] = "",
) -> None:
    """Make a new version that equals an earlier one, or put a champion's earlier bundle back into use; nothing is lost."""
    from tilth.engine.work import utc_now
    from tilth.runtime.bundles.champion import Champion, is_champion

    if is_champion(folder):
        back = Champion(folder).rollback(version, time=utc_now())
        typer.echo(f"{back.bundle} is in use again, instead of {back.instead_of}; servers of {folder} follow")
        return
    from tilth.pipeline.run import RUNNING

    dataset = existing(folder)
    if not version:
        raise InputError(f"{folder}: which version? List them: tilth history {folder}")
    made = dataset.rollback(version, utc_now())
    (folder / RUNNING).unlink(
        missing_ok=True
    )  # a command that was killed before does not go on from what this left behind
    typer.echo(f"version {made.number}: {made.message}")


def _shown(dataset: "Dataset", media: str) -> str:
    """Settle which kind of samples is meant, the one that there is when none is said, and show it alone; say how many others there are."""
    if media and media not in MEDIA:
        raise InputError(f"--media must be one of {', '.join(MEDIA)}, got {media!r}")
    there = [str(name) for (name,) in dataset.tally("media")]
    chosen = media or (there[0] if len(there) == 1 else IMAGE)
    if others := dataset.only((chosen,)):
        streams.tell("note", f"{others:,} samples are no {chosen}, and left out; give --media for them")
    return chosen


def _look_at(where: str, dataset: "Dataset") -> None:
    """Say what a condition asks for that was never measured here; a slip of the pen is refused."""
    for name in unmeasured(where, dataset.view.columns.names()) if where else ():
        streams.tell("note", f"no sample has {name!r} yet: no step has measured it here")


def count(
    dataset: DatasetPath,
    by: Annotated[list[str] | None, typer.Option(help="Column to count by; give it again for several.")] = None,
    where: Where = "",
    dropped: Annotated[bool, typer.Option("--dropped", help="Count samples that a step left out, too.")] = False,
    version: Annotated[str, typer.Option(help="Version or tag; the newest when empty.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line for programs.")] = False,
) -> None:
    """Count samples by what is known of them; without --by and --where, say what can be asked for."""
    opened = existing(dataset)
    opened = opened.checkout(version) if version else opened
    _look_at(where, opened)
    names = by or []
    check_named(" ".join(f"`{name}`" for name in names), opened.view.columns.names(), "--by")
    found = opened.tally(*names, where=where, dropped=dropped) if names else {(): opened.count(where, dropped=dropped)}
    rows = [{**dict(zip(names, values, strict=True)), "samples": n} for values, n in found.items()]
    for row in rows:
        typer.echo(json.dumps(row) if as_json else "  ".join(f"{v!s:>16}" for v in row.values()))
    if not (names or where or as_json):
        typer.echo(f"columns: {', '.join(sorted(opened.view.columns.names()))}")


def explain(
    dataset: DatasetPath,
    sample: Annotated[str, typer.Argument(help="Id of a sample, or its beginning.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")] = False,
) -> None:
    """Say why an image is in a dataset, or out of it: where it is from, what found it, and what scored what."""
    opened = existing(dataset)
    found = opened.view.beginning(sample, limit=10)
    if len(found) != 1:
        raise InputError(f"{dataset}: {len(found) or 'no'} samples begin with {sample!r}; give more of the id")
    (one,) = opened.read(found, images=False)
    rows: dict[str, Any] = {
        "id": one.id,
        "state": str(one.state),
        **{f"origin.{name}": value for name, value in one.origin.items()},
        **dict(sorted(one.columns.items())),
        **{f"claim {n}": _told(claim) for n, claim in enumerate(one.claims, 1)},
        **{f"dropped by {step}": why for step, why in one.drops},
    }
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for name, value in rows.items():
        for part, inner in value.items() if isinstance(value, dict) else [("", value)]:
            typer.echo(f"{name + (f'.{part}' if part else ''):32} {inner}")


def provenance(
    files: Annotated[list[Path], typer.Argument(help="Image files.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a file for programs.")] = False,
) -> None:
    """Say what image files tell of where they come from: made by a model or not said, by which one, from what, and who signed it."""
    from tilth.pipeline.tell import provenance_of, provenance_text

    wrong = []
    for path in files:
        try:
            found = provenance_of(path)
        except InputError as error:
            wrong.append(str(error))
            continue
        typer.echo(json.dumps(found) if as_json else provenance_text(found))
    if wrong:
        raise InputError("\n".join(wrong))


def _told(claim: Any) -> str:
    place = claim.box_xyxy or claim.span
    where = f" at {', '.join(f'{v:.4g}' for v in place)}" if place else ""
    return f"{claim.source} says {claim.category or claim.says}{where}, score {claim.score:.2f}"


def export(
    dataset: DatasetPath,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="coco, yolo, voc, labelstudio, cvat, imagefolder (Hugging Face), classfolders (torchvision), webdataset, parquet or csv; "
            "pairs, the edited pairs that `generate` made, for `tilth eval --protocol pairs`; of texts jsonl, parquet, csv or labelstudio; "
            "of sounds audiofolder (Hugging Face) or jsonl.",
        ),
    ] = "coco",
    images: Annotated[
        str, typer.Option(help="copy them, or none: labels alone, which name the images as they were taken in.")
    ] = "copy",
    media: Annotated[str, typer.Option(help="image, text or sound; of a dataset with several, one at a time.")] = "",
    unlabelled: Annotated[
        bool,
        typer.Option("--unlabelled", help="Images that nobody has labelled too, where the format tells them apart."),
    ] = False,
    where: Where = "",
    version: Annotated[str, typer.Option(help="Version or tag; the newest when empty.")] = "",
    policy: Annotated[
        Path | None,
        typer.Option(
            help="Policy file: its categories are all numbered, in its order, and what its hash lists name stays here. "
            "Those that occur when empty."
        ),
    ] = None,
) -> None:
    """Write a dataset in a format that other tools read; says first what the format cannot hold."""
    from tilth.annotate.exchange.exporting import export as write
    from tilth.data.files import alone
    from tilth.engine.work import utc_now
    from tilth.mining.copies.listed import guard_of, sweep
    from tilth.policy import load_policy

    opened, rules = existing(dataset), load_policy(policy) if policy else None
    if rules and rules.hash_lists:
        opened.guard = guard_of(rules)
        with alone(dataset):
            sweep(opened, opened.guard, utc_now())
    chosen = opened.checkout(version) if version else opened
    _look_at(where, chosen)
    if format_ == "pairs":
        from tilth.pipeline.protocols.pairs import write_pairs

        if policy is None:
            raise InputError("--format pairs needs --policy, which the pairs are judged by")
        typer.echo(json.dumps(write_pairs(chosen, policy, out, where=where)))
        return
    names = rules.names if rules else ()
    shown, say = _shown(chosen, media), partial(streams.tell, "note")
    if shown == SOUND:
        from tilth.annotate.sounds.writing import export_sounds

        typer.echo(json.dumps(export_sounds(chosen, out, format_, where=where, unlabelled=unlabelled, say=say)))
        return
    if shown == TEXT:
        from tilth.annotate.texts.writing import export_texts

        typer.echo(
            json.dumps(
                export_texts(chosen, out, format_, where=where, unlabelled=unlabelled, categories=names, say=say)
            )
        )
        return
    told = write(chosen, out, format_, images=images, unlabelled=unlabelled, where=where, categories=names)
    typer.echo(json.dumps(told))


def gallery(
    dataset: DatasetPath,
    out: Annotated[Path, typer.Option(help="Folder to write, or one file that ends in .html.")] = Path("gallery"),
    policy: Annotated[
        Path | None,
        typer.Option(help="Policy file, which says what needs no veil; without it all pictures are veiled."),
    ] = None,
    where: Where = "",
    version: Annotated[str, typer.Option(help="Version or tag; the newest when empty.")] = "",
    side: Annotated[int, typer.Option(min=32, max=4096, help="Longer side of a picture, in pixels.")] = 640,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet instead: a PNG of 48 images.")] = None,
    unveiled: Annotated[bool, typer.Option("--unveiled", help="Show unsafe pictures on the sheet.")] = False,
) -> None:
    """Write pages to look through a dataset in a browser: every box, who says so, and what the clean-up took."""
    from tilth.mining.copies.listed import guard_of
    from tilth.pipeline.gallery.page import Gallery
    from tilth.policy import load_policy

    opened, rules = existing(dataset), load_policy(policy) if policy else None
    opened.guard = guard_of(rules) if rules else None
    chosen = opened.checkout(version) if version else opened
    _look_at(where, chosen)
    if sheet:
        _shown(chosen, IMAGE)
    shown = Gallery(dataset=chosen, policy=rules, side=side, where=where)
    typer.echo(
        json.dumps({"sheet": str(sheet), **shown.sheet(sheet, unveiled=unveiled)} if sheet else shown.write(out))
    )


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for function in (history, diff, tag, rollback, count, explain, export, gallery):
        example = f"Example: tilth {function.__name__} runs/starter/dataset{EXAMPLES[function.__name__]}"
        app.command(epilog=example)(function)
    app.command(epilog="Example: tilth provenance photo.jpg")(provenance)
