"""A bundle: the folder that the runtime serves, with the SHA-256 of every file in it.

    bundle.json        format, clear_below, facts about its making, files: {name: sha256}
    policy.yaml        categories and thresholds
    classifier.onnx    classifier.json {labels, size_wh, mean, std, calibration: {label: {a, d, b}}}
    detector.onnx      detector.json {labels, size_wh, mean, std, score_threshold}
    verdict.onnx       verdict.json {template_version, labels, label_token_ids, max_tokens, padding, …}, tokenizer.json
    tuned.json         what runs fastest on this machine; the one file that is not sealed, see `tuned.py`

The three files of Stage 2 are missing where a policy has nothing to read: then Stage 1 decides alone. Those of the detector are
missing where nobody knows where things are, only that an image shows them. Nothing is loaded before every digest fits.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tilth.claims import Json
from tilth.errors import InputError, ModelError, TilthError
from tilth.extras import optional
from tilth.fusion import finite, fusions
from tilth.images import Image
from tilth.policy import Policy, load_policy
from tilth.runtime.bundles.settings import (
    CLEAR_BELOW,
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
from tilth.runtime.stages.stage1 import Classifier, Detector, Prepare, Stage1
from tilth.runtime.stages.stage2 import Stage2, read_once

FORMAT = 1
MANIFEST = "bundle.json"
IN_USE, BUNDLES = "bundle", "bundles"  # of a champion: the link to the one in use, and where all of them lie
NEEDED = ("policy.yaml", "classifier.onnx", "classifier.json")
DETECTOR = ("detector.onnx", "detector.json")  # both or none
STAGE2 = ("verdict.onnx", "verdict.json", "tokenizer.json")  # all or none
UNSEALED = {MANIFEST, TUNED}
OUTPUTS = {"classifier": ("logits",), "detector": ("logits", "boxes")}

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
    if missing := _missing({name for name in (*NEEDED, *DETECTOR, *STAGE2) if (folder / name).is_file()}):
        raise InputError(f"{folder}: a bundle also needs {', '.join(missing)}")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    digests = {name: _digest(folder / name) for name in names if name not in UNSEALED}
    manifest = {**(facts or {}), "format": FORMAT, "clear_below": clear_below, "files": digests}
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / MANIFEST)
    return folder / MANIFEST


def _missing(there: set[str]) -> list[str]:
    """List the files that a bundle which has these files also needs."""
    groups = (NEEDED, *(group for group in (DETECTOR, STAGE2) if there & set(group)))
    return [name for group in groups for name in group if name not in there]


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
    wrong = [f"{name} is missing" for name in sorted({*_missing(found), *manifest.files} - found)]
    wrong += [f"{name} was added" for name in sorted(found - set(manifest.files))]
    for name in sorted(found & set(manifest.files)):
        if (folder / name).is_symlink():
            wrong.append(f"{name} is a link")
        elif _digest(folder / name) != manifest.files[name]:
            wrong.append(f"{name} was changed")
    if wrong:
        raise ModelError(f"{folder}: {'; '.join(wrong)}; this is not the bundle that was sealed, package it again")
    return manifest


def load_bundle(folder: Path, *, threads: int = 0, tuned: bool = True) -> Moderator:
    """Verify a bundle and get its models ready.

    Args:
        folder: The bundle, or a champion, which stands for the one in use.
        threads: Of each model; 0 for as many as this process may use.
        tuned: Whether each graph runs on what was fastest here, or all on onnxruntime, as when models are compared.

    Raises:
        InputError: The folder is no bundle, or its settings contradict each other.
        ModelError: A file was changed, is not the model that its settings describe, or says what is no number.
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
    back_ends = chosen(folder, digest_of(folder)) if tuned else {}
    calibration = {label: one.model_dump() for label, one in classifier.calibration.items()}
    stage1 = Stage1(
        classifier=Classifier(
            graph=_opened(folder, "classifier", classifier.prepare, threads, back_ends),
            labels=classifier.labels,
            prepare=classifier.prepare,
            fusions=tuple(fusions(calibration, classifier.labels)),
        ),
        detector=Detector(
            graph=_opened(folder, "detector", detector.prepare, threads, back_ends),
            labels=detector.labels,
            prepare=detector.prepare,
            score_threshold=detector.score_threshold,
        )
        if detector
        else None,
    )
    moderator = Moderator(
        policy=policy,
        stage1=stage1,
        stage2=_stage2(folder, policy, verdict, threads) if verdict else None,
        reader=Reader(threads=threads) if verdict else None,
        clear_below=manifest.clear_below,
        name=f"{policy.policy}-v{policy.version}@{digest_of(folder)}",
    )
    _ask_once(folder, moderator)
    return moderator


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


def _ask_once(folder: Path, moderator: Moderator) -> None:
    """Ask every model about a picture of noise: one that cannot answer, or not in numbers, is never served."""
    try:
        screens = moderator.stage1([_noise()])
        if moderator.stage2 is not None:
            moderator.stage2(screens, ["words"])
    except TilthError as error:
        raise ModelError(f"{folder}/{error}") from error
    except Exception as error:
        raise ModelError(f"{folder}: its models cannot be asked: {str(error).splitlines()[0][:200]}") from error


def _noise() -> Image:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def _stage2(folder: Path, policy: Policy, verdict: VerdictSettings, threads: int) -> Stage2:
    with optional():
        from tokenizers import Tokenizer
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # which is what tokenizers raises
        raise ModelError(f"{folder}/tokenizer.json: not a tokenizer: {str(error)[:200]}") from error
    if absent := [str(each) for each in verdict.label_token_ids if tokenizer.id_to_token(each) is None]:
        raise ModelError(
            f"{folder}/tokenizer.json: lacks the label tokens {', '.join(absent)} of verdict.json; package it again"
        )
    keeps = verdict.past_shape is not None
    inputs, outputs = ({"ids", "mask", "past"}, {"logits", "kept"}) if keeps else ({"ids", "mask"}, {"logits"})
    session = open_graph(folder / "verdict.onnx", inputs, outputs, threads=threads)
    try:
        shared = read_once(session, tokenizer, verdict.rules(policy), verdict.after, verdict.past_shape)
    except TilthError as error:
        raise ModelError(f"{folder}/{error}") from error
    except Exception as error:
        raise ModelError(f"{folder}/verdict.onnx: cannot be asked: {str(error).splitlines()[0][:200]}") from error
    return Stage2(
        session=session,
        tokenizer=tokenizer,
        labels=verdict.labels,
        max_tokens=verdict.max_tokens,
        padding=verdict.padding,
        shared=shared,
    )


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
