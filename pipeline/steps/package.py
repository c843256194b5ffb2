"""Package the trained models, the language model and the policy into the folder that the runtime serves."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from tilth import models
from tilth.claims import Json
from tilth.data.files import folder_beside
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import Image
from tilth.pipeline.steps.cards import evaluations_of, licences_of, write_cards
from tilth.policy import Policy
from tilth.runtime.bundles.bundle import MANIFEST, load_bundle, seal
from tilth.runtime.bundles.settings import CLEAR_BELOW, write_policy
from tilth.runtime.bundles.tune import tune
from tilth.runtime.stages.cascade import Moderator
from tilth.runtime.stages.stage1 import Floats, Prepare
from tilth.runtime.stages.stage2 import strange_words
from tilth.runtime.stages.template import DEFINED, LETTERS, SAFE
from tilth.train.artifacts.artifact import About, read_about

COMPARED = 8  # images by which a graph is held to its model


@step
class Package:
    """Make a bundle: two ONNX graphs for Stage 1, one for Stage 2, policy, settings and the digest of every file.

    Args:
        classifier: Name of the classifier artifact.
        detector: Name of the detector artifact; when empty, the classifier decides alone, as where labels have no boxes.
        language_model: The model of Stage 2; when empty, Stage 1 decides alone. It is left out for a policy without categories that
            words decide.
        clear_below: An image whose scores all lie below it is allowed by Stage 1 alone; when None, the score that
            calibration found on validation images, at most the policy's lowest `review_above`.
        measured_on: Images of the dataset by which graphs are held to their models, and back ends to each other; 0 to choose
            none but onnxruntime. The bundle keeps none of them.
    """

    leaves: ClassVar[tuple[str, ...]] = ("bundle",)
    refers: ClassVar[tuple[str, ...]] = ("classifier", "detector")

    classifier: str = "final.classifier"
    detector: str = "final.detector"
    language_model: str = "starter:verdict"
    clear_below: float | None = None
    measured_on: int = 32

    def models(self) -> tuple[str, ...]:
        """Name the language model."""
        return (self.language_model,) if self.language_model else ()

    def run(self, work: Work) -> Facts:
        """Export, seal, open once to prove that it loads, and link `bundle` beside the run's report to it.

        Raises:
            InputError: The language model, or a trained model, does not know the policy's categories.
        """
        folder, link = work.folder / "bundle", work.folder.parents[1] / "bundle"
        check_language_model(self.language_model, work.policy)
        for name in (self.classifier, self.detector) if self.detector else (self.classifier,):
            _check_labels(name, read_about(work.artifact(name)), work.policy)
        if not (folder / "bundle.json").exists():
            with folder_beside(folder) as partial:
                partial.mkdir(parents=True)
                try:
                    images = self._images(work)
                    self._write(work, partial, images)
                    load_bundle(partial)
                    if images:
                        tune(partial, images, made=work.now())
                except BaseException:  # what is left would look like a bundle
                    shutil.rmtree(partial)
                    raise
        moderator = load_bundle(folder)
        work.publish("bundle", folder)
        link_beside(folder, link)
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        for note in notes_on(folder, moderator):
            work.events.emit("note", step=work.name, message=f"  note: {note}")
        work.events.emit("packaged", folder=str(link), message=f"  {link}; serve it with: tilth serve {link}")
        return {
            "folder": str(link),
            "bundle": moderator.name,
            "size_mb": round(size / 2**20, 2),
            "files": sum(path.is_file() for path in folder.rglob("*")),
            "clear_below": moderator.clear_below,
            "back_ends": dict(moderator.stage1.back_ends),
            "reads": reads_what(moderator),
            "evaluations": [*json.loads((folder / "evaluation.json").read_text())],
            "notes": notes_on(folder, moderator),
            "review_above": {category.name: category.review_above for category in moderator.policy.pictured},
        }

    def _images(self, work: Work) -> list[Image]:
        """Draw images that the models may know, never sealed ones."""
        ids = [one for some in work.dataset.ids("split is null or split != 'test'", dropped=False) for one in some]
        drawn = np.random.default_rng(work.seed).permutation(len(ids))[: self.measured_on]
        return [sample.pixels() for sample in work.dataset.read([ids[i] for i in sorted(drawn)])]

    def _write(self, work: Work, folder: Path, images: Sequence[Image]) -> None:
        from tilth.train.artifacts.export import (
            export_classifier,
            export_detector,
            export_language_model,
            verdict_settings,
        )

        classifier, detector = work.artifact(self.classifier), self.detector and work.artifact(self.detector)
        export_classifier(classifier, folder, _pixels(classifier, images))
        if detector:
            export_detector(detector, folder, _pixels(detector, images))
        reads = self.language_model if work.policy.written else ""
        if reads:
            place = models.locate(reads)
            export_language_model(place, folder, verdict_settings(place, _verdicts(work.policy), DEFINED))
        served = self._served(work)
        write_policy(folder, served)
        facts: dict[str, Json] = {
            "made": work.now(),
            "dataset_version": work.dataset.at.number,
            "dataset_digest": work.dataset.digest(),
            "language_model": models.source(reads) if reads else None,
            "classifier": work.artifact(self.classifier).name,
            "detector": work.artifact(self.detector).name if self.detector else None,
        }
        licences = licences_of(work, self.classifier, self.detector, reads)
        left_out = write_cards(folder, work, served, licences, evaluations_of(work, self.classifier))
        seal(folder, clear_below=self._clear_below(work), facts={**facts, "left_out": left_out})

    def _clear_below(self, work: Work) -> float:
        if self.clear_below is not None:
            return self.clear_below
        about = read_about(work.artifact(self.classifier))
        found = CLEAR_BELOW if about.clear_below is None else about.clear_below
        return min([found, *(c.review_above for c in self._served(work).categories if c.name in about.labels)])

    def _served(self, work: Work) -> Policy:
        """Return the policy with the thresholds that reach what it aims at."""
        about = read_about(work.artifact(self.classifier))
        categories = []
        for category in work.policy.categories:
            if category.name in about.aims:
                line = round(about.thresholds[category.name], 6)
                category = category.model_copy(
                    update={"review_above": line, "block_above": max(line, category.block_above)}
                )
            categories.append(category)
        return work.policy.model_copy(update={"categories": tuple(categories)})


def _pixels(model: Path, images: Sequence[Image]) -> Floats | None:
    """Prepare some images for a model; None when there are too few to compare by."""
    about = read_about(model)
    (r, g, b), (x, y, z) = about.mean, about.std
    way = Prepare(size_wh=(about.side, about.side), mean=(r, g, b), std=(x, y, z), keep_aspect=about.keep_aspect)
    return way(images[:COMPARED]) if len(images) > 1 else None


def reads_what(moderator: Moderator) -> str:
    """Say which images have their words read."""
    if moderator.stage2 is None:
        return "none"
    return f"those that show {' or '.join(moderator.signposts)}" if moderator.signposts else "all that are not blocked"


def notes_on(folder: Path, moderator: Moderator) -> list[str]:
    """Say what whoever serves the bundle should know."""
    left_out = json.loads((folder / MANIFEST).read_text()).get("left_out")
    notes = [left_out] if left_out else []
    if moderator.stage2 is not None and not moderator.signposts:
        notes.append(
            "no category of the policy says where there are words, so those of every image that is not blocked are read, which takes "
            "long; a pictured category with severity: low, review_above: 1 and block_above: 1, such as sign, would say it"
        )
    return notes


def _verdicts(policy: Policy) -> tuple[str, ...]:
    return (SAFE, *(c.name for c in policy.categories if not c.is_signpost))


def check_language_model(name: str, policy: Policy) -> None:
    """Refuse a language model that was taught the categories of another policy, before anything is exported.

    Args:
        name: Of the model; empty for none.
        policy: Whose categories it is to judge; where words decide none, no model is packaged.

    Raises:
        InputError: It does not know them, or there is none although words decide some.
    """
    written = [category.name for category in policy.written]
    if not written:
        return
    another = (
        "set language_model to a folder or hub id (owner/name@commit) of an instruction-tuned language model, which answers by letter, "
        "or leave these categories out of the policy"
    )
    if not name:
        raise InputError(
            f"words decide {', '.join(written)}, and without a language model nobody reads them; {another}"
        )
    if len(_verdicts(policy)) > len(LETTERS):
        raise InputError(
            f"policy {policy.policy} has {len(_verdicts(policy)) - 1} categories to judge; a verdict is one letter, so Stage 2 can tell at "
            f"most {len(LETTERS) - 1} apart: divide the policy, or leave out the categories that words decide ({', '.join(written[:5])}"
            f"{', …' if len(written) > 5 else ''})"
        )
    own = models.find(name) / "verdict.json" if models.is_here(name) else None
    if own is None or not own.exists():
        return  # it answers for whatever it is told
    told = json.loads(own.read_text())
    if told["template_version"] == DEFINED:  # it reads what the policy says
        if told.get("whole_words"):
            from tokenizers import Tokenizer

            if lacks := strange_words(Tokenizer.from_file(str(own.with_name("tokenizer.json"))), policy):
                raise InputError(
                    f"{name} does not know these words of the policy: {', '.join(lacks)}; say it in its words (docs/policy.md, Write "
                    f"clauses), or {another}"
                )
        return
    taught = told["labels"]
    if lacks := [category for category in written if category not in taught]:
        raise InputError(f"{name} was not taught {', '.join(lacks)} but {', '.join(taught)}; {another}")
    if strange := [label for label in taught if label not in _verdicts(policy)]:
        raise InputError(f"{name} also answers with {', '.join(strange)}, which the policy does not have; {another}")


def _check_labels(name: str, about: About, policy: Policy) -> None:
    ours = {category.name for category in policy.pictured}
    lacks, strange = sorted(ours - set(about.labels)), sorted(set(about.labels) - ours)
    if lacks and about.kind == "classifier":
        raise InputError(f"{name} was trained before the policy had {', '.join(lacks)}; train it again")
    if strange:
        raise InputError(f"{name} was trained for {', '.join(strange)}, which the policy does not have; train it again")


def link_beside(target: Path, link: Path) -> None:
    """Point a link at a folder, replacing an earlier link but never a real folder.

    Raises:
        InputError: Something else lies there.
    """
    if link.exists() and not link.is_symlink():
        raise InputError(f"{link}: is in the way; move it and run again")
    fresh = link.with_name(link.name + ".partial")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(target, link.parent))
    fresh.replace(link)
