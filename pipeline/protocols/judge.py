"""Judge a bundle by one of the protocols, as `tilth eval --protocol` does."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from tilth.claims import Json
from tilth.engine.work import utc_now
from tilth.errors import TooManyFailures
from tilth.events import Events
from tilth.images import Image
from tilth.pipeline.protocols.examples import open_source
from tilth.pipeline.protocols.flips import flips
from tilth.pipeline.protocols.folder import BASE, read_folder, under
from tilth.pipeline.protocols.pairs import edited_pairs, hear, injected_pairs, injection_flips, pairs_right
from tilth.pipeline.protocols.rivals import Ways, rivals
from tilth.pipeline.protocols.said import Cascade
from tilth.pipeline.protocols.two_stage import ask, measure
from tilth.runtime.bundles.bundle import load_bundle
from tilth.train.judge.testsets import opened

TWO_STAGE, FLIPS, PAIRS, INJECTION = PROTOCOLS = ("two-stage", "flips", "pairs", "injection")

Facts = dict[str, Json]
Keep = Callable[[str, Image], None]


def judge(
    protocol: str,
    bundle: Path,
    path: Path,
    *,
    specs: Sequence[str] = (),
    ways: Ways | None = None,
    split: str = "test",
    keep: Keep = lambda file, image: None,
) -> Facts:
    """Judge, and return all numbers.

    Args:
        protocol: One of `PROTOCOLS`.
        bundle: The bundle, or a champion.
        path: What it is judged on.
        specs: Of rivals.
        ways: How they are asked, and by how many threads the bundle computes.
        split: Of a dataset.
        keep: Called with the name and the pixels of each image of which both stages are wrong, in `two-stage`.

    Raises:
        InputError: The bundle or what it is to be judged on is none.
        TooManyFailures: Nothing could be judged.
    """
    ways = ways or Ways()
    with closing(Events()) as events:
        if protocol == TWO_STAGE:
            facts = _two_stage(events, bundle, path, specs, ways, split, keep)
        elif protocol == FLIPS:
            facts = _flips(events, bundle, path, ways)
        else:
            facts = _pairs(events, protocol, bundle, path, specs, ways)
    return {"protocol": protocol, "set": str(path), **facts}


def _two_stage(
    events: Events, bundle: Path, path: Path, specs: Sequence[str], ways: Ways, split: str, keep: Keep
) -> Facts:
    moderator = load_bundle(bundle, threads=ways.threads)
    source = open_source(path, moderator.policy, split)
    told: Facts = dict(source.told)
    with tempfile.TemporaryDirectory() as made, rivals(specs, ways) as others:
        if source.folder is not None:
            moderator = under(bundle, source.folder, BASE, Path(made) / BASE, threads=ways.threads)
        if source.sealed:
            by = f"{TWO_STAGE}/{moderator.name}/{source.told.get('version')}"
            told["test_opened"] = opened(path, source.sealed, by, utc_now())
        with events.progress(TWO_STAGE, source.total) as advance:
            asked = ask(source.read(), Cascade(moderator), others, advance, keep)
    if not asked.rows:
        raise TooManyFailures(
            f"{path}: no image was judged: {len(asked.broken)} could not be decoded, and of {len(asked.unknown)} "
            "nobody knows whether they are safe, as not every category of the bundle's policy was looked for"
        )
    return {"bundle": moderator.name, **told, **measure(asked, moderator.policy)}


def _flips(events: Events, bundle: Path, path: Path, ways: Ways) -> Facts:
    folder = read_folder(path)
    with events.progress(FLIPS, sum(map(len, folder.answers.values()))) as advance:
        return flips(bundle, folder, threads=ways.threads, advance=advance)


def _pairs(events: Events, protocol: str, bundle: Path, path: Path, specs: Sequence[str], ways: Ways) -> Facts:
    folder = read_folder(path)
    pairs = edited_pairs(folder) if protocol == PAIRS else injected_pairs(folder)
    with tempfile.TemporaryDirectory() as made, rivals(specs, ways) as others:
        moderator = under(bundle, folder, BASE, Path(made) / BASE, threads=ways.threads)
        judges = [Cascade(moderator), *others]
        with events.progress(protocol, len({file for pair in pairs for file in pair})) as advance:
            heard = hear(folder, pairs, judges, advance)
    if not heard.pairs:
        raise TooManyFailures(f"{path}: no pair was judged: of each of {heard.count} an image could not be decoded")
    facts = pairs_right(folder, heard) if protocol == PAIRS else injection_flips(heard)
    return {"bundle": moderator.name, **facts}
