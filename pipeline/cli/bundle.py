"""The commands about a bundle on disk: `tilth bundle verify`, `tilth bundle policy` and `tilth tune`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tilth.errors import InputError
from tilth.pipeline.cli.recipes import AsJson, say

BundlePath = Annotated[Path, typer.Argument(help="Folder that `package` made, or a champion.")]


def verify(bundle: BundlePath, as_json: AsJson = False) -> None:
    """Check that a bundle is whole, unchanged and of one piece, and that its models answer: that it would be served."""
    from tilth.runtime.bundles.bundle import MANIFEST, in_use, load_bundle

    moderator = load_bundle(bundle, answers=True)
    manifest = json.loads((in_use(bundle) / MANIFEST).read_text())
    back_ends = moderator.stage1.back_ends | (
        {"language model": moderator.stage2.judge.back_end} if moderator.stage2 else {}
    )
    if as_json:
        say(json.dumps({"bundle": moderator.name, "back_ends": back_ends, "files": manifest["files"]}))
        return
    run = ", ".join(f"{name} by {back_end}" for name, back_end in back_ends.items())
    say(f"{bundle}: {moderator.name}, {len(manifest['files'])} files as they were sealed, its models answer; {run}")


def tune(
    bundle: BundlePath,
    images: Annotated[list[Path], typer.Argument(help="Image files or folders, like what will come; a few dozen.")],
    as_json: AsJson = False,
) -> None:
    """Measure which back end runs a bundle's first stage fastest on this machine, of those that give onnxruntime's answers."""
    from tilth.engine.work import utc_now
    from tilth.images import decode
    from tilth.pipeline.steps.moderate import image_files
    from tilth.runtime.bundles.bundle import in_use
    from tilth.runtime.bundles.tune import MOST_IMAGES, table
    from tilth.runtime.bundles.tune import tune as measure
    from tilth.runtime.bundles.tuned import TUNED

    some, first = [], ""
    for path in image_files(images):
        try:
            some.append(decode(path.read_bytes()))
        except InputError as error:
            first = first or f"{path}: {error}"
        if len(some) == MOST_IMAGES:
            break
    if not some:
        raise InputError(first or f"{', '.join(map(str, images))}: no image here")
    tuned = measure(bundle, some, made=utc_now())
    say(
        tuned.model_dump_json()
        if as_json
        else f"{table(tuned)}\n{in_use(bundle) / TUNED}; a server that runs keeps its own"
    )


def policy(
    bundle: BundlePath,
    new: Annotated[Path, typer.Argument(help="The new policy file.")],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
) -> None:
    """Make a bundle with another policy, without training: other thresholds, and other words where its language model reads definitions."""
    from tilth.engine.work import utc_now
    from tilth.runtime.bundles.repolicy import repolicy

    changed = repolicy(bundle, new, out, made=utc_now())
    say("\n".join([*(changed or ["nothing changed"]), f"{out}: measure it before it is promoted; tilth serve {out}"]))


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    about = typer.Typer(no_args_is_help=True, help="Check a bundle, or give it another policy.")
    app.add_typer(about, name="bundle")
    about.command("verify", epilog="Example: tilth bundle verify runs/starter/bundle")(verify)
    about.command(
        "policy",
        epilog="Example: tilth bundle policy runs/starter/bundle configs/policies/starter.yaml --out runs/bundle-2",
    )(policy)
    app.command(epilog="Example: tilth tune runs/starter/bundle photo.jpg")(tune)
