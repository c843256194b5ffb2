"""Package the trained models, the language model and the policy into the folder that the runtime serves."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import ClassVar

import numpy as np

from tilth.claims import Json
from tilth.data.files import folder_beside
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import Image
from tilth.pipeline.steps.cards import evaluations_of, licences_of, write_cards
from tilth.pipeline.steps.language import Asking, check_language_model, source_of, write_language_model
from tilth.policy import Policy
from tilth.runtime.bundles.bundle import MANIFEST, load_bundle, seal
from tilth.runtime.bundles.routing import ROUTER
from tilth.runtime.bundles.settings import CLEAR_BELOW, write_policy
from tilth.runtime.bundles.tune import tune
from tilth.runtime.stages.cascade import Moderator
from tilth.runtime.stages.stage1 import Floats, Prepare
from tilth.train.artifacts.artifact import About, read_about

COMPARED = 8  # images by which a graph is held to its model


@step
class Package:
    """Make a bundle: two ONNX graphs for Stage 1, a language model for Stage 2, policy, settings and the digest of every file.

    Args:
        classifier: Name of the classifier artifact.
        detector: Name of the detector artifact; when empty, the classifier decides alone, as where labels have no boxes.
        language_model: The model of Stage 2; when empty, Stage 1 decides alone. It is left out for a policy without categories that
            words decide. Of a server it is the name that the server knows it by.
        asking: Where the language model runs, and how it is asked.
        clear_below: An image whose scores all lie below it is allowed by Stage 1 alone; when None, the score that
            calibration found on validation images, at most the policy's lowest `review_above`.
        router: Name of a `train.router`, which says what the language model need not be asked about; when empty, it is asked about all
            that Stage 1 leaves open.
        measured_on: Images of the dataset by which graphs are held to their models, and back ends to each other; 0 to choose
            none but onnxruntime. The bundle keeps none of them.
    """

    leaves: ClassVar[tuple[str, ...]] = ("bundle",)
    refers: ClassVar[tuple[str, ...]] = ("classifier", "detector", "router")

    classifier: str = "final.classifier"
    detector: str = "final.detector"
    language_model: str = "starter:verdict"
    asking: Asking = field(default_factory=Asking)
    clear_below: float | None = None
    router: str = ""
    measured_on: int = 32

    def models(self) -> tuple[str, ...]:
        """Name the language model, unless a server has it."""
        return (self.language_model,) if self.language_model and self.asking.back_end != "server" else ()

    def run(self, work: Work) -> Facts:
        """Export, seal, open once to prove that it loads, and link `bundle` beside the run's report to it.

        Raises:
            InputError: The language model, or a trained model, does not know the policy's categories.
            Unavailable: The server of the language model does not answer.
        """
        folder, link = work.folder / "bundle", work.folder.parents[1] / "bundle"
        check_language_model(self.language_model, work.policy, self.asking)
        for name in (self.classifier, self.detector) if self.detector else (self.classifier,):
            _check_labels(name, read_about(work.artifact(name)), work.policy)
        if not (folder / "bundle.json").exists():
            with folder_beside(folder) as partial:
                partial.mkdir(parents=True)
                try:
                    images = self._images(work)
                    self._write(work, partial, images)
                    load_bundle(partial, answers=True)
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
            "language_model": moderator.stage2.judge.back_end if moderator.stage2 else "none",
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
        from tilth.train.artifacts.export import export_classifier, export_detector

        classifier, detector = work.artifact(self.classifier), self.detector and work.artifact(self.detector)
        export_classifier(classifier, folder, _pixels(classifier, images))
        if detector:
            export_detector(detector, folder, _pixels(detector, images))
        if heard := [category.name for category in work.policy.heard]:
            raise InputError(
                f"{', '.join(heard)}: nothing in a bundle hears them; leave them out of the policy that it serves"
            )
        reads = self.language_model if work.policy.written else ""
        if reads:
            write_language_model(reads, self.asking, work.policy, folder)
            for name in ROUTER if self.router else ():
                shutil.copy(work.artifact(self.router) / name, folder)
        served = self._served(work)
        write_policy(folder, served)
        facts: dict[str, Json] = {
            "made": work.now(),
            "dataset_version": work.dataset.at.number,
            "dataset_digest": work.dataset.digest(),
            "language_model": source_of(reads, self.asking) if reads else None,
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
        return work.policy.with_categories(categories)


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
