"""The commands about a bundle on disk: `tilth bundle verify`, `policy` and `thresholds`, `tilth tune` and `tilth eval`.

`eval` is one step over a dataset, too; with `--protocol` it judges a bundle the way that it is served.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilth.errors import InputError
from tilth.pipeline.cli.recipes import AsJson, say
from tilth.pipeline.cli.settings import read_settings
from tilth.pipeline.cli.steps import COMMANDS, Device, StepCommand, run_one

if TYPE_CHECKING:
    from tilth.images import Image

MOST_PICTURES = 5000  # that are kept until it is known which are the hardest
Threads = Annotated[int, typer.Option(min=0, help="Threads of each model of a bundle; 0 for all cores.")]
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


def thresholds(
    bundle: BundlePath,
    dataset: Annotated[
        Path,
        typer.Argument(help="Dataset, of whose validation images thresholds are chosen; or a folder with answers."),
    ],
    cost: Annotated[str, typer.Option(help="What things cost: missed=100,review=1,ms=0.001.")],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Make a bundle whose thresholds are the cheapest for what a missed harm, a look and a millisecond cost, by validation images alone."""
    from contextlib import closing

    from tilth.engine.work import utc_now
    from tilth.events import Events
    from tilth.pipeline.protocols.costs import choose, read_cost, see, write
    from tilth.pipeline.protocols.examples import open_source
    from tilth.pipeline.protocols.table import saved
    from tilth.runtime.bundles.bundle import load_bundle

    wanted = read_cost(cost)
    if out.exists():
        raise InputError(f"{out} is there already; name another --out")
    moderator = load_bundle(bundle, threads=threads)
    source = open_source(dataset, moderator.policy, "val")
    with closing(Events()) as events, events.progress("thresholds", source.total) as advance:
        seen = see(moderator, source.read(), advance)
    choice, facts = choose(moderator, seen, wanted)
    facts |= {"bundle": moderator.name, "set": str(dataset), **source.told}
    write(bundle, out, choice, made=utc_now(), facts=facts)
    say(json.dumps(facts, indent=1) if as_json else f"{saved(facts)}\n{out}: measure it before it is promoted")


def evaluate(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="DATASET", help="Dataset folder. With --protocol: BUNDLE DATASET, or a folder."),
    ],
    policy: Annotated[
        Path | None,
        typer.Option(
            help="Policy file. With --protocol the bundle's own counts, and the hash lists of this one name what --html never shows."
        ),
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the step; see below.")] = None,
    device: Device = "auto",
    label: Annotated[str, typer.Option("--as", help="Name for what it leaves; the step's own when empty.")] = "",
    protocol: Annotated[
        str,
        typer.Option(
            help="Judge a bundle as it is served: two-stage, flips, pairs or injection; see docs/two-stage.md."
        ),
    ] = "",
    rival: Annotated[
        list[str] | None,
        typer.Option(
            help="Judge this on the same images: a bundle, an image classifier, or the address of a server; may be repeated."
        ),
    ] = None,
    unsafe: Annotated[
        list[str] | None, typer.Option(help="Label of a rival that counts as unsafe; may be repeated.")
    ] = None,
    token_env: Annotated[
        str, typer.Option(help="Environment variable with the token for a rival that is a server.")
    ] = "",
    split: Annotated[str, typer.Option(help="Of the dataset that a bundle is judged on.")] = "test",
    threads: Threads = 0,
    html: Annotated[Path | None, typer.Option(help="Write what a protocol finds as a page, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure models on sealed images."""
    if not protocol:
        _step(paths, policy, settings, device, label)
        return
    from tilth.engine.work import utc_now
    from tilth.mining.copies.listed import guard_of
    from tilth.models import check_device
    from tilth.pipeline.protocols.judge import PROTOCOLS, judge
    from tilth.pipeline.protocols.page import Thumbs, thumb, write_page
    from tilth.pipeline.protocols.rivals import Ways
    from tilth.pipeline.protocols.table import table
    from tilth.policy import load_policy

    if protocol not in PROTOCOLS:
        raise InputError(f"--protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if len(paths) != 2:
        raise InputError(f"--protocol {protocol} takes a bundle and what it is judged on, got {len(paths)} paths")
    if settings or label or (policy and not html):
        raise InputError("--set, --as and --policy are for the step; a protocol judges a bundle by its own policy")
    if protocol == "flips" and rival:
        raise InputError("--rival: no rival follows another policy; flips are compared with the base policy's labels")
    if token_env and token_env not in os.environ:
        raise InputError(f"--token-env {token_env}: no such environment variable")
    check_device(device)
    ways = Ways(unsafe=unsafe or (), token=os.environ.get(token_env, ""), threads=threads, device=device)
    guard = guard_of(load_policy(policy)) if policy else None
    thumbs: Thumbs = {}

    def keep(file: str, image: "Image") -> None:
        if html is not None and len(thumbs) < MOST_PICTURES and not (guard and guard(image)):
            thumbs[file] = thumb(file, image)

    facts = judge(protocol, paths[0], paths[1], specs=rival or [], ways=ways, split=split, keep=keep)
    if html is not None:
        write_page(html, facts, thumbs, utc_now()[:10])
    say(json.dumps(facts, indent=1) if as_json else table(facts))


def _step(paths: list[Path], policy: Path | None, settings: list[str] | None, device: str, label: str) -> None:
    if len(paths) != 1:
        raise InputError(f"give one dataset, got {len(paths)} paths; a bundle is judged with --protocol")
    if policy is None:
        raise InputError("give --policy, the policy file of the dataset; or --protocol to judge a bundle")

    def tell(facts: Mapping[str, Any]) -> None:
        say(json.dumps(facts, indent=1))

    run_one(paths[0], policy, "eval", COMMANDS["eval"], read_settings(settings), device, label, tell)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    about = typer.Typer(no_args_is_help=True, help="Check a bundle, or give it another policy or other thresholds.")
    app.add_typer(about, name="bundle")
    about.command("verify", epilog="Example: tilth bundle verify runs/starter/bundle")(verify)
    about.command(
        "policy",
        epilog="Example: tilth bundle policy runs/starter/bundle configs/policies/starter.yaml --out runs/bundle-2",
    )(policy)
    about.command(
        "thresholds",
        epilog="Example: tilth bundle thresholds runs/starter/bundle data/mine --cost missed=100,review=1 --out runs/bundle-3",
    )(thresholds)
    app.command(epilog="Example: tilth tune runs/starter/bundle photo.jpg")(tune)
    one = COMMANDS["eval"]
    app.command("eval", short_help=one.does, cls=type("EvalCommand", (StepCommand,), {"one": one, "full": "eval"}))(
        evaluate
    )
