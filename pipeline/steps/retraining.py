"""What a recipe needs beside training to be run every night: is there anything new, is it better than what is served, and into use."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from tilth.claims import Json
from tilth.data.files import write_beside
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import GateRefused, InputError
from tilth.images import Image
from tilth.runtime.bundles.bundle import BUNDLES, digest_of, in_use, load_bundle
from tilth.runtime.bundles.champion import KEPT, LOG, Champion
from tilth.runtime.stages.cascade import Moderator
from tilth.runtime.stages.stage1 import prepared
from tilth.train.artifacts.artifact import About, write_about
from tilth.train.judge.evaluate import Tested
from tilth.train.judge.predict import boxes_of

TRAINED = "trained.json"  # beside the dataset: what was last learned from


@step
class Changed:
    """End the run here, as done, when nothing to learn from is new since the last run that came past here.

    What counts are the images that are in, what people and imported sets said of them, the policy and the recipe; what models say follows
    from these.

    Args:
        anyway: Go on whether or not.
    """

    anyway: bool = False

    def run(self, work: Work) -> Facts:
        """Compare, and note what is learned from now."""
        whole, images = 0, 0
        for sample in work.dataset.samples(images=False):
            said = [[c.source, c.says, c.category, c.box_xyxy, c.asked] for c in sample.claims if c.kind != "model"]
            told = json.dumps([sample.id, *sorted(map(str, said))])
            whole += int.from_bytes(hashlib.sha256(told.encode()).digest())  # a sum: in whatever order
            images += 1
        rules = f"{work.policy.model_dump_json(exclude={'hash_lists'})} {work.options.get('recipe', '')}"
        digest = hashlib.sha256(f"{whole} {rules}".encode()).hexdigest()[:12]
        path = work.dataset.root / TRAINED
        before = json.loads(path.read_text()) if path.exists() else {}
        states: dict[str, Json] = {str(state): count for (state,), count in work.dataset.tally("state").items()}
        facts: dict[str, Json] = {"images": images, "by_state": states, "digest": digest}
        run = str(work.folder.resolve().parents[1])  # it may come past here again, with other steps before
        if before.get("digest") == digest and before.get("by") != run and not self.anyway:
            return {**facts, "enough": f"nothing to learn is new since {before['time']}; nothing is trained"}
        write_beside(path, json.dumps({"digest": digest, "time": work.now(), "by": run, "states": states}))
        return {**facts, "by_state_before": before.get("states", {})}


class Served:
    """What a bundle's first stage says of images, in the form in which trained models say it.

    Args:
        moderator: Of the bundle.
    """

    def __init__(self, moderator: Moderator) -> None:
        self._stage1 = moderator.stage1

    def __call__(self, images: Sequence[Image]) -> list[tuple[dict[str, float], list[list[Any]]]]:
        """Return logits by category, and boxes, of each image."""
        classifier, detector = self._stage1.classifier, self._stage1.detector
        ways = [model.prepare for model in (classifier, detector) if model]
        pixels = prepared(images, ways)
        logits = [dict(zip(classifier.labels, map(float, row), strict=True)) for row in classifier(pixels[0])]
        boxes: list[list[list[Any]]] = [[] for _ in images]
        if detector is not None:
            scores, places = detector.said(pixels[-1])
            for i, image in enumerate(images):
                size_wh = (image.shape[1], image.shape[0])
                boxes[i] = boxes_of(scores[i], places[i], detector.labels, size_wh, detector.prepare.frame_wh(size_wh))
        return list(zip(logits, boxes, strict=True))


@step
class EvaluateBundle(Tested):
    """Measure the first stage of a bundle, such as the one in use, on the images that its challenger is measured on.

    Args:
        bundle: Its folder, or a champion's; where there is none yet, that is what is reported.
    """

    bundle: Path

    def run(self, work: Work) -> Facts:
        """Measure the one that is in use now; a run that is gone on with measures the one that it began with."""
        note = work.folder / "judged.json"
        if not note.exists():
            found = in_use(self.bundle).resolve()
            there = (found / "bundle.json").exists()
            if (
                self.bundle.exists()
                and not there
                and any(p.name not in (".lock", BUNDLES, LOG) for p in self.bundle.iterdir())
            ):
                raise InputError(
                    f"{self.bundle}: neither a bundle nor a champion; name the folder of one, or one that is not there yet"
                )
            write_beside(note, json.dumps({"bundle": str(found) if there else None}))
        judged = json.loads(note.read_text())["bundle"]
        if judged is None:
            return {"bundle": None, "reason": f"no bundle is in use yet in {self.bundle}"}
        moderator = load_bundle(Path(judged), tuned=False)  # its challenger is not measured in bf16 either
        classifier = moderator.stage1.classifier
        about = About(
            kind="classifier", base=moderator.name, labels=list(classifier.labels), side=max(classifier.prepare.size_wh),
            mean=list(classifier.prepare.mean), std=list(classifier.prepare.std),
            calibration={label: asdict(one) for label, one in zip(classifier.labels, classifier.fusions, strict=True)},
            thresholds={c.name: c.review_above for c in moderator.policy.pictured},
        )  # fmt: skip
        place = work.folder / "classifier"
        place.mkdir(exist_ok=True)
        write_about(place, about)
        work.publish(f"{work.name}.classifier", place)
        detector = moderator.stage1.detector
        facts = self.judge(work, Served(moderator), about, detector.score_threshold if detector else None)
        return {"bundle": moderator.name, "digest": digest_of(Path(judged)), **facts}


@step
class Promote:
    """Put the bundle of this run into use: it becomes the champion by one rename, and servers of the champion follow.

    Args:
        champion: Folder; made with the first.
        bundle: Name of the bundle artifact.
        judged: Name of the step that measured the bundle in use, which must still be in use: the gate has compared with no other. Empty not
            to ask.
        kept: Bundles that the champion keeps to go back to; older ones are deleted.
    """

    champion: Path
    refers: ClassVar[tuple[str, ...]] = ("bundle", "judged")

    bundle: str = "bundle"
    judged: str = "evaluate.champion"
    kept: int = KEPT

    def __post_init__(self) -> None:
        """Check the number."""
        if self.kept < 1:
            raise ValueError(f"kept must be at least 1, got {self.kept}")

    def run(self, work: Work) -> Facts:
        """Put it there.

        Raises:
            GateRefused: Somebody has put another bundle into use since this run's was compared.
        """
        bundle, champion = work.artifact(self.bundle), Champion(self.champion)
        now = digest_of(champion.bundle) if champion.bundle else None
        if self.judged and self.judged not in work.facts:
            raise InputError(
                f'{work.name}: no step {self.judged!r} measured what is in use; add evaluate_bundle under this name, or set judged to ""'
            )
        if self.judged and now not in (
            digest_of(bundle),
            compared := work.facts[self.judged].get("digest"),
        ):
            (work.dataset.root / TRAINED).unlink(missing_ok=True)
            raise GateRefused(
                f"{work.name}: {now or 'nothing'} is in use and not {compared or 'nothing'}, which the new bundle was compared with; "
                "the next night trains and compares again",
                {"in_use": now, "compared_with": compared},
            )
        verdict = next((str(f["reason"]) for f in work.facts.values() if f.get("passed") is True and "reason" in f), "")
        made = champion.promote(bundle, time=work.now(), why=verdict, kept=self.kept)
        work.events.emit(
            "promoted", champion=str(self.champion), message=f"  {made.bundle} is in use in {self.champion}"
        )
        return {"champion": str(self.champion), **asdict(made)}
