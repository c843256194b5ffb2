"""Package the trained models, the language model and the policy into the folder that the runtime serves."""

import json
import os
import shutil
from pathlib import Path

import yaml

from tilth import models
from tilth.claims import Json
from tilth.data.files import folder_beside
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.policy import Policy
from tilth.runtime.bundles.bundle import load_bundle, seal
from tilth.runtime.bundles.settings import CLEAR_BELOW
from tilth.runtime.stages.template import SAFE, VERSION
from tilth.train.artifacts.artifact import About, read_about


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
    """

    classifier: str = "final.classifier"
    detector: str = "final.detector"
    language_model: str = "starter:verdict"
    clear_below: float | None = None

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
                    self._write(work, partial)
                    load_bundle(partial)
                except BaseException:  # what is left would look like a bundle
                    shutil.rmtree(partial)
                    raise
        moderator = load_bundle(folder)
        work.publish("bundle", folder)
        link_beside(folder, link)
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        work.events.emit("packaged", folder=str(link), message=f"  {link}; serve it with: tilth serve {link}")
        return {
            "folder": str(link),
            "bundle": moderator.name,
            "size_mb": round(size / 2**20, 2),
            "files": len(list(folder.iterdir())),
            "clear_below": moderator.clear_below,
            "review_above": {category.name: category.review_above for category in moderator.policy.pictured},
        }

    def _write(self, work: Work, folder: Path) -> None:
        from tilth.train.artifacts.export import (
            export_classifier,
            export_detector,
            export_language_model,
            verdict_settings,
        )

        export_classifier(work.artifact(self.classifier), folder)
        if self.detector:
            export_detector(work.artifact(self.detector), folder)
        reads = self.language_model if work.policy.written else ""
        if reads:
            place = models.locate(reads)
            export_language_model(place, folder, verdict_settings(place, _verdicts(work.policy), VERSION))
        policy = yaml.safe_dump(
            self._served(work).model_dump(mode="json", exclude={"hash_lists"}, exclude_none=True),
            sort_keys=False,
            allow_unicode=True,
        )
        (folder / "policy.yaml").write_text(policy, encoding="utf-8")
        facts: dict[str, Json] = {
            "made": work.now(),
            "dataset_version": work.dataset.at.number,
            "dataset_digest": work.dataset.digest(),
            "language_model": models.source(reads) if reads else None,
            "classifier": work.artifact(self.classifier).name,
            "detector": work.artifact(self.detector).name if self.detector else None,
        }
        seal(folder, clear_below=self._clear_below(work), facts=facts)

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
    own = models.find(name) / "verdict.json" if models.is_here(name) else None
    if own is None or not own.exists():
        return  # it answers for whatever it is told
    taught = json.loads(own.read_text())["labels"]
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
