"""A bundle: the folder that the runtime serves, with the SHA-256 of every file in it.

    bundle.json        format, clear_below, facts about its making, files: {name: sha256}
    policy.yaml        categories and thresholds
    classifier.onnx    classifier.json {labels, size_wh, mean, std, calibration: {label: {a, d, b}}}
    detector.onnx      detector.json {labels, size_wh, mean, std, score_threshold}
    verdict.json       the language model {back_end, form, template_version, labels, max_tokens, …}; and, by its back end, verdict.onnx or
                       verdict.gguf with tokenizer.json, or nothing where it names a checkpoint or a server
    route.json         the router, and in route.npz its numbers; see `routing.py`
    tuned.json         what runs fastest on this machine; the one file that is not sealed, see `tuned.py`

The files of Stage 2 are missing where a policy has nothing to read: then Stage 1 decides alone. Those of the router are missing where
Stage 2 is asked about all that Stage 1 leaves open. Those of the detector are
missing where nobody knows where things are, only that an image shows them. Nothing is loaded before every digest fits.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from tilth.claims import Json
from tilth.encoders.fusion import finite, fusions
from tilth.errors import InputError, ModelError, TilthError, Unavailable
from tilth.images import Image
from tilth.policy import Policy, load_policy
from tilth.runtime.bundles.language import open_stage2
from tilth.runtime.bundles.routing import ROUTER, read_router
from tilth.runtime.bundles.settings import (
    CLEAR_BELOW,
    STAGE2,
    BackEnd,
    ClassifierSettings,
    DetectorSettings,
    Manifest,
    VerdictSettings,
    check_agreement,
    read_settings,
)
from tilth.runtime.bundles.tuned import TUNED, chosen
from tilth.runtime.stages.cascade import Moderator
from tilth.runtime.stages.graphs import REFERENCE, Graph, open_graph
from tilth.runtime.stages.reading import Reader
from tilth.runtime.stages.route import Router
from tilth.runtime.stages.stage1 import Classifier, Detector, Prepare, Screen, Stage1
from tilth.runtime.stages.stage2 import Stage2, Unjudged

FORMAT = 1
MANIFEST = "bundle.json"
IN_USE, BUNDLES = "bundle", "bundles"  # of a champion: the link to the one in use, and where all of them lie
NEEDED = ("policy.yaml", "classifier.onnx", "classifier.json")
DETECTOR = ("detector.onnx", "detector.json")  # both or none
UNSEALED = {MANIFEST, TUNED}
OUTPUTS = {"classifier": ("logits",), "detector": ("logits", "boxes")}

T = TypeVar("T")
log = logging.getLogger("tilth.bundles")


def seal(folder: Path, *, clear_below: float = CLEAR_BELOW, facts: Mapping[str, Json] | None = None) -> Path:
    """Write `bundle.json` over the files of a folder, which makes it a bundle.

    Args:
        folder: Holds the files that `NEEDED` lists, and any others that belong to them.
        clear_below: An image whose scores all lie below it is allowed by Stage 1 alone.
        facts: What to remember of its making: models, versions, measures.

    Raises:
        InputError: A file is missing.
    """
    if missing := _missing(folder, {path.name for path in folder.iterdir() if path.is_file()}):
        raise InputError(f"{folder}: a bundle also needs {', '.join(missing)}")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    digests = {name: _digest(folder / name) for name in names if name not in UNSEALED}
    manifest = {**(facts or {}), "format": FORMAT, "clear_below": clear_below, "files": digests}
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / MANIFEST)
    return folder / MANIFEST


def _missing(folder: Path, there: set[str]) -> list[str]:
    """List the files that a bundle which has these files also needs."""
    groups = [NEEDED, *(both for both in (DETECTOR, ROUTER) if there & {*both})]
    if there & {name for files in STAGE2.values() for name in files}:
        groups.append(STAGE2[_back_end(folder)])
    return [name for group in groups for name in group if name not in there]


def _back_end(folder: Path) -> BackEnd:
    """Return the back end that a language model's settings name; that of old bundles where they name none, or cannot be read yet."""
    try:
        named = json.loads((folder / "verdict.json").read_bytes())["back_end"]
    except (OSError, ValueError, KeyError, TypeError):
        return "onnx"
    return named if named in STAGE2 else "onnx"


def verify(folder: Path) -> Manifest:
    """Check that a folder is a whole bundle, and that no file was changed, added or taken away since it was sealed.

    Raises:
        InputError: It is no bundle.
        ModelError: A file is not the one that was sealed.
    """
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} is not a bundle: it has no {MANIFEST}; make one with: tilth package")
    manifest = read_settings(folder / MANIFEST, Manifest)
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() or p.is_symlink()}
    found -= {name for name in UNSEALED if not (folder / name).is_symlink()}
    wrong = [f"{name} is missing" for name in sorted({*_missing(folder, found), *manifest.files} - found)]
    wrong += [f"{name} was added" for name in sorted(found - set(manifest.files))]
    for name in sorted(found & set(manifest.files)):
        if (folder / name).is_symlink():
            wrong.append(f"{name} is a link")
        elif _digest(folder / name) != manifest.files[name]:
            wrong.append(f"{name} was changed")
    if wrong:
        raise ModelError(f"{folder}: {'; '.join(wrong)}; this is not the bundle that was sealed, package it again")
    return manifest


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What a bundle says of itself, verified and of one piece; no model of it is loaded yet.

    Args:
        folder: Where it lies.
        clear_below: An image whose scores all lie below it is allowed by Stage 1 alone.
        policy: That it serves.
        classifier: Settings.
        detector: Settings; None where the classifier decides alone.
        verdict: Settings of the language model; None without Stage 2.
        router: Of what is asked of it; None where all is.
    """

    folder: Path
    clear_below: float
    policy: Policy
    classifier: ClassifierSettings
    detector: DetectorSettings | None
    verdict: VerdictSettings | None
    router: Router | None = None

    @property
    def name(self) -> str:
        """The policy and the digits by which it is told from others."""
        return f"{self.policy.policy}-v{self.policy.version}@{digest_of(self.folder)}"

    def stage1(self, opened: Callable[[str, Prepare], Graph]) -> Stage1:
        """Put Stage 1 together of graphs that are opened by their names."""
        known, boxes = self.classifier, self.detector
        calibration = {label: one.model_dump() for label, one in known.calibration.items()}
        return Stage1(
            classifier=Classifier(
                graph=opened("classifier", known.prepare),
                labels=known.labels,
                prepare=known.prepare,
                fusions=tuple(fusions(calibration, known.labels)),
            ),
            detector=Detector(
                graph=opened("detector", boxes.prepare),
                labels=boxes.labels,
                prepare=boxes.prepare,
                score_threshold=boxes.score_threshold,
            )
            if boxes
            else None,
        )


def read_bundle(folder: Path) -> Bundle:
    """Verify a bundle and read its settings.

    Args:
        folder: The bundle, or a champion, which stands for the one in use.

    Raises:
        InputError: The folder is no bundle, or its settings contradict each other.
        ModelError: A file was changed.
    """
    folder = in_use(Path(folder))
    manifest = verify(folder)
    policy = load_policy(folder / "policy.yaml")
    classifier = read_settings(folder / "classifier.json", ClassifierSettings)
    boxes = (folder / "detector.json").is_file()
    detector = read_settings(folder / "detector.json", DetectorSettings) if boxes else None
    reads = (folder / "verdict.json").is_file()
    verdict = read_settings(folder / "verdict.json", VerdictSettings) if reads else None
    check_agreement(folder, policy, classifier, detector, verdict)
    return Bundle(
        folder=folder, clear_below=manifest.clear_below, policy=policy, classifier=classifier, detector=detector, verdict=verdict,
        router=read_router(folder, policy),
    )  # fmt: skip


def load_bundle(folder: Path, *, threads: int = 0, tuned: bool = True, answers: bool = False) -> Moderator:
    """Verify a bundle and get its models ready.

    Args:
        folder: The bundle, or a champion, which stands for the one in use.
        threads: Of each model; 0 for as many as this process may use.
        tuned: Whether each graph runs on what was fastest here, or all on onnxruntime, as when models are compared.
        answers: See `load_stage2`.

    Raises:
        InputError: The folder is no bundle, or its settings contradict each other.
        ModelError: A file was changed, is not the model that its settings describe, or says what is no number.
        Unavailable: The server of the language model must be there, and is not.
    """
    bundle = read_bundle(folder)
    return Moderator(
        policy=bundle.policy,
        stage1=load_stage1(bundle, threads=threads, tuned=tuned),
        stage2=load_stage2(bundle, threads=threads, answers=answers),
        reader=Reader(threads=threads) if bundle.verdict else None,
        clear_below=bundle.clear_below,
        router=bundle.router,
        name=bundle.name,
    )


def load_stage1(bundle: Bundle, *, threads: int = 0, tuned: bool = True) -> Stage1:
    """Get Stage 1 of a bundle ready, and ask it about a picture of noise.

    Raises:
        ModelError: A file is not the model that its settings describe, cannot be asked, or says what is no number.
    """
    back_ends = chosen(bundle.folder, digest_of(bundle.folder)) if tuned else {}
    stage1 = bundle.stage1(lambda name, prepare: _opened(bundle.folder, name, prepare, threads, back_ends))
    _asked(bundle.folder, lambda: stage1([_noise()]))
    return stage1


def load_stage2(bundle: Bundle, *, threads: int = 0, answers: bool = False) -> Stage2 | None:
    """Get the language model of a bundle ready, and ask it about a word; None where it has none.

    One on a server that cannot be reached now keeps nothing from being served, as it may be there later; the log says so.

    Args:
        bundle: It.
        threads: To compute with.
        answers: Whether a server must be there now.

    Raises:
        InputError: The policy is too long for it, or a variable that it needs is not set.
        ModelError: It is not what its settings describe, cannot be asked, says what is no number, or none of the letters.
        Unavailable: Its server must be there, and is not.
    """
    if bundle.verdict is None:
        return None
    folder, stage2 = bundle.folder, open_stage2(bundle.folder, bundle.policy, bundle.verdict, threads)
    [judged] = _asked(folder, lambda: stage2([Screen(scores=dict.fromkeys(bundle.classifier.labels, 0.5))], ["words"]))
    if not isinstance(judged, Unjudged):
        return stage2
    if judged.why == "no_label":
        raise ModelError(
            f"{folder}: the language model's server answers with none of the letters of the policy's rules, or tells no "
            "log-probabilities; serve a model that answers by letter, with top_logprobs"
        )
    why = f"{folder}: the language model's server does not answer ({judged.why})"
    if answers:
        raise Unavailable(why)
    log.warning("%s; Stage 1 decides alone until it does", why)
    return stage2


def _asked(folder: Path, ask: Callable[[], T]) -> T:
    """Ask a model once: one that cannot answer, or not in numbers, is never served."""
    try:
        return ask()
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    except TilthError as error:
        raise ModelError(f"{folder}/{error}") from error
    except Exception as error:
        raise ModelError(f"{folder}: its models cannot be asked: {str(error).splitlines()[0][:200]}") from error


def open_part(folder: Path, name: str, *, threads: int = 0, back_end: str = REFERENCE) -> Graph:
    """Open `classifier` or `detector` of a bundle on a back end; see `open_graph`."""
    outputs = set(OUTPUTS[name])
    return open_graph(folder / f"{name}.onnx", {"pixels"}, outputs, threads=threads, back_end=back_end)


def _opened(folder: Path, name: str, prepare: Prepare, threads: int, back_ends: Mapping[str, str]) -> Graph:
    """Open a graph of Stage 1 on its back end, or, where that is absent or fails, on onnxruntime."""
    back_end = back_ends.get(name, REFERENCE)
    if back_end != REFERENCE:
        try:
            graph = open_part(folder, name, threads=threads, back_end=back_end)
            for said in graph.run(OUTPUTS[name], {"pixels": prepare([_noise()])}):
                finite(said, back_end)
            return graph
        except Exception as error:  # noqa: BLE001  # a library that is broken must not stop the service
            why = (str(error).splitlines() or [type(error).__name__])[0][:200]
            log.warning("%s/%s.onnx: %s fails, %s runs it: %s", folder, name, back_end, REFERENCE, why)
    return open_part(folder, name, threads=threads)


def in_use(folder: Path) -> Path:
    """Return the bundle that a folder stands for: of a champion the one in use now, otherwise the folder itself."""
    link = folder / IN_USE
    return link.resolve() if link.is_symlink() and not (folder / MANIFEST).exists() else folder


def digest_of(folder: Path) -> str:
    """Return the digits by which a bundle is told from others."""
    return _digest(folder / MANIFEST)[:12]


def _noise() -> Image:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
