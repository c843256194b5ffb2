"""Package the trained models, the language model and the policy into the folder that the runtime serves."""

import os
import shutil
from pathlib import Path

import yaml

from tilth import models
from tilth.claims import Json
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.runtime.bundles.bundle import CLEAR_BELOW, load_bundle, seal
from tilth.runtime.stages.stage1 import TEXT_AREA
from tilth.runtime.stages.template import SAFE, VERSION
from tilth.train.artifacts.artifact import read_about


@step
class Package:
    """Make a bundle: two ONNX graphs for Stage 1, one for Stage 2, policy, settings and the digest of every file.

    Args:
        classifier: Name of the classifier artifact.
        detector: Name of the detector artifact.
        language_model: The model of Stage 2; when empty, Stage 1 decides alone, for a policy without text categories.
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
        """Export, seal, open once to prove that it loads, and link `bundle` beside the run's report to it."""
        from tilth.train.artifacts.export import (
            export_classifier,
            export_detector,
            export_language_model,
            verdict_settings,
        )

        folder = work.folder / "bundle"
        if not (folder / "bundle.json").exists():
            partial = work.folder / "bundle.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            export_classifier(work.artifact(self.classifier), partial)
            export_detector(work.artifact(self.detector), partial)
            if self.language_model:
                language_model = models.locate(self.language_model)
                labels = (SAFE, *(c.name for c in work.policy.categories if c.name != TEXT_AREA))
                export_language_model(language_model, partial, verdict_settings(language_model, labels, VERSION))
            policy = yaml.safe_dump(
                work.policy.model_dump(mode="json", exclude={"hash_lists"}), sort_keys=False, allow_unicode=True
            )
            (partial / "policy.yaml").write_text(policy, encoding="utf-8")
            facts: dict[str, Json] = {
                "made": work.now(),
                "dataset_version": work.dataset.at.number,
                "language_model": models.source(self.language_model) if self.language_model else None,
                "classifier": work.artifact(self.classifier).name,
                "detector": work.artifact(self.detector).name,
            }
            seal(partial, clear_below=self._clear_below(work), facts=facts)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        moderator = load_bundle(folder)
        work.publish("bundle", folder)
        link_beside(folder, work.folder.parents[1] / "bundle")
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        return {
            "bundle": moderator.name,
            "size_mb": round(size / 2**20, 2),
            "files": len(list(folder.iterdir())),
            "clear_below": moderator.clear_below,
        }

    def _clear_below(self, work: Work) -> float:
        if self.clear_below is not None:
            return self.clear_below
        about = read_about(work.artifact(self.classifier))
        found = CLEAR_BELOW if about.clear_below is None else about.clear_below
        return min([found, *(c.review_above for c in work.policy.categories if c.name in about.labels)])


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
