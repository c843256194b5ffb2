"""A bundle: the folder that the runtime serves, with the SHA-256 of every file in it.

    bundle.json        format, clear_below, facts about its making, files: {name: sha256}
    policy.yaml        categories and thresholds
    classifier.onnx    classifier.json {labels, size_wh, mean, std, calibration: {label: {a, d, b}}}
    detector.onnx      detector.json {labels, size_wh, mean, std, score_threshold}
    verdict.onnx       verdict.json {template_version, labels, label_token_ids, max_tokens, padding}, tokenizer.json

The three files of the last line are missing where a policy has nothing to read: then Stage 1 decides alone. Those of the detector are
missing where nobody knows where things are, only that an image shows them. Nothing is loaded before every digest fits.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tilth.claims import Json
from tilth.errors import InputError, ModelError, TilthError
from tilth.extras import optional
from tilth.fusion import fusions
from tilth.policy import Policy, load_policy
from tilth.runtime.stages import template
from tilth.runtime.stages.cascade import Moderator
from tilth.runtime.stages.reading import Reader
from tilth.runtime.stages.stage1 import Classifier, Detector, Prepare, Stage1
from tilth.runtime.stages.stage2 import Stage2

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FORMAT = 1
MANIFEST = "bundle.json"
IN_USE, BUNDLES = "bundle", "bundles"  # of a champion: the link to the one in use, and where all of them lie
NEEDED = ("policy.yaml", "classifier.onnx", "classifier.json")
DETECTOR = ("detector.onnx", "detector.json")  # both or none
STAGE2 = ("verdict.onnx", "verdict.json", "tokenizer.json")  # all or none
CLEAR_BELOW = 0.1


_Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
_Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Pixels(_Settings):
    labels: tuple[str, ...] = Field(min_length=1)
    size_wh: tuple[Annotated[int, Field(ge=1, le=4096)], Annotated[int, Field(ge=1, le=4096)]]
    mean: tuple[_Number, _Number, _Number]
    std: tuple[_Positive, _Positive, _Positive]
    keep_aspect: bool = False

    @property
    def prepare(self) -> Prepare:
        return Prepare(size_wh=self.size_wh, mean=self.mean, std=self.std, keep_aspect=self.keep_aspect)


class _Fusion(_Settings):
    a: float = Field(ge=0, allow_inf_nan=False)
    d: float = Field(ge=0, allow_inf_nan=False)
    b: float = Field(allow_inf_nan=False)


class ClassifierSettings(_Pixels):
    """`classifier.json`."""

    calibration: dict[str, _Fusion] = {}


class DetectorSettings(_Pixels):
    """`detector.json`."""

    score_threshold: float = Field(gt=0, le=1)


class VerdictSettings(_Settings):
    """`verdict.json`."""

    template_version: int
    labels: tuple[str, ...] = Field(min_length=2)
    label_token_ids: tuple[int, ...]
    max_tokens: int = Field(ge=16)
    padding: Literal["left", "right"]


class Manifest(_Settings):
    """`bundle.json`; what else it holds is for people to read."""

    format: Literal[1]
    clear_below: float = Field(default=CLEAR_BELOW, ge=0, le=1)
    files: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]


S = TypeVar("S", bound=_Settings)


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
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    digests = {name: _digest(folder / name) for name in names}
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
    manifest = _settings(folder / MANIFEST, Manifest)
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() or p.is_symlink()} - {MANIFEST}
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


def load_bundle(folder: Path, *, threads: int = 0) -> Moderator:
    """Verify a bundle and get its models ready.

    Args:
        folder: The bundle, or a champion, which stands for the one in use.
        threads: Of each model; 0 lets onnxruntime choose.

    Raises:
        InputError: The folder is no bundle, or its settings contradict each other.
        ModelError: A file was changed, is not the model that its settings describe, or says what is no number.
    """
    folder = in_use(Path(folder))
    manifest = verify(folder)
    policy = load_policy(folder / "policy.yaml")
    classifier = _settings(folder / "classifier.json", ClassifierSettings)
    boxes = (folder / "detector.json").is_file()
    detector = _settings(folder / "detector.json", DetectorSettings) if boxes else None
    reads = (folder / "verdict.json").is_file()
    verdict = _settings(folder / "verdict.json", VerdictSettings) if reads else None
    _agree(folder, policy, classifier, detector, verdict)
    calibration = {label: one.model_dump() for label, one in classifier.calibration.items()}
    stage1 = Stage1(
        classifier=Classifier(
            session=_session(folder / "classifier.onnx", {"pixels"}, {"logits"}, threads),
            labels=classifier.labels,
            prepare=classifier.prepare,
            fusions=tuple(fusions(calibration, classifier.labels)),
        ),
        detector=Detector(
            session=_session(folder / "detector.onnx", {"pixels"}, {"logits", "boxes"}, threads),
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
        stage2=_stage2(folder, verdict, threads) if verdict else None,
        reader=Reader(threads=threads) if verdict else None,
        clear_below=manifest.clear_below,
        name=f"{policy.policy}-v{policy.version}@{digest_of(folder)}",
    )
    _ask_once(folder, moderator)
    return moderator


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
        screens = moderator.stage1([np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)])
        if moderator.stage2 is not None:
            moderator.stage2(screens, ["words"])
    except TilthError as error:
        raise ModelError(f"{folder}/{error}") from error
    except Exception as error:
        raise ModelError(f"{folder}: its models cannot be asked: {str(error).splitlines()[0][:200]}") from error


def _stage2(folder: Path, verdict: VerdictSettings, threads: int) -> Stage2:
    with optional():
        from tokenizers import Tokenizer
    return Stage2(
        session=_session(folder / "verdict.onnx", {"ids", "mask"}, {"logits"}, threads),
        tokenizer=Tokenizer.from_file(str(folder / "tokenizer.json")),
        labels=verdict.labels,
        max_tokens=verdict.max_tokens,
        padding=verdict.padding,
    )


def _agree(
    folder: Path,
    policy: Policy,
    classifier: ClassifierSettings,
    detector: DetectorSettings | None,
    verdict: VerdictSettings | None,
) -> None:
    """Report everything in which the files of a bundle contradict each other."""
    wrong = []
    verdicts = verdict.labels if verdict else ()
    if verdict and verdict.template_version != template.VERSION:
        wrong.append(f"verdict.json: template {verdict.template_version}, this runtime writes {template.VERSION}")
    if verdict and len(verdict.labels) != len(verdict.label_token_ids):
        wrong.append(f"verdict.json: {len(verdict.labels)} labels but {len(verdict.label_token_ids)} label_token_ids")
    if verdict and template.SAFE not in verdict.labels:
        wrong.append(f"verdict.json: labels lack {template.SAFE!r}")
    boxed = detector.labels if detector else ()
    for name, labels in (("classifier", classifier.labels), ("detector", boxed), ("verdict", verdicts)):
        if strangers := sorted(set(labels) - set(policy.names) - {template.SAFE}):
            wrong.append(f"{name}.json: no category of policy {policy.policy}: {', '.join(strangers)}")
    decided = {*classifier.labels, *verdicts}
    if orphans := [name for name in policy.names if name not in decided]:
        wrong.append(f"policy.yaml: no model scores {', '.join(orphans)}; classifier.json or verdict.json must list it")
    if wrong:
        raise InputError("\n".join(f"{folder}/{line}" for line in wrong))


def _settings(path: Path, kind: type[S]) -> S:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path}: {place}: {first['msg']}") from error


def _session(path: Path, inputs: set[str], outputs: set[str], threads: int) -> "InferenceSession":
    """Open an ONNX graph on the best device that the installed onnxruntime knows, and check its inputs and outputs."""
    with optional():
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    usable = onnxruntime.get_available_providers()
    chosen = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in usable]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=chosen)
    except Exception as error:
        raise ModelError(f"{path}: not a graph that onnxruntime can run: {str(error).splitlines()[0][:200]}") from error
    for expected, there in ((inputs, session.get_inputs()), (outputs, session.get_outputs())):
        if not expected <= (names := {item.name for item in there}):
            raise ModelError(f"{path}: expected inputs or outputs {sorted(expected)}, the graph has {sorted(names)}")
    return session


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
