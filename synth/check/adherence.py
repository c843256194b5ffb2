"""Judge what was generated before it counts, by what grounding found in it, an encoder, a classifier, and its likeness to other images.

Measures are columns: `look.py` and `agreement.py` write those that take a model. What is decided of them (`judging.py`) is a table
of its own, so other thresholds need no model.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from tilth.claims import Claim, Json
from tilth.data.where import STYLE, both, quoted
from tilth.engine.apply import Apply
from tilth.engine.steps import Facts, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.geometry import Box, Boxes, areas, intersections
from tilth.samples import RANK, Result, Sample
from tilth.synth.check.agreement import AGREES, Agree
from tilth.synth.check.judging import Limits, decide
from tilth.synth.check.look import VECTOR, Look
from tilth.synth.check.near import Real, Seen, Words, diversity

WANTED = "made and split != 'test' and not array_has(kinds, 'human')"
HASH, QUALITY, CLEAR = "hash.pdq", "hash.pdq_quality", 50  # of `hash`; an image of lower quality is too plain for one
WORST = 10  # prompts that are told


@step
class Adherence:
    """Keep the generated images that show what was asked for, where it was asked for, and that are neither copies nor broken.

    The look-alike of an edited pair has to show that what was asked for is not there, and is compared with other look-alikes alone. Run
    `ground` on them first, and `hash` for copies to be found by their hashes as well. An image is dropped, with the reason, when it
    is black, of one colour or noise; when grounding did not find the category in it; when it is a copy of a real image that it was not
    made from; when it is among those of its category and style that match the words least; when the classifier does not see the
    category; and when it is nearly the same as a better one. Images that a person has labelled are left to what the person said. Those
    that stay are put in order, the best of each category and style in turn: training takes the first where there are too many.

    Args:
        min_score: Least score of a box of the category.
        max_cover: A box over more of the image than this says nothing about where.
        min_inside: Least part of a box that lies in the hole that was drawn into, or in the box whose edges were followed.
        encoder: That compares images with words and with one another; none when empty.
        lowest: Share of the images of each category and style that goes, those that match the words least.
        max_cosine: From which on two images are nearly the same to the encoder; 1 for never.
        classifier: Classifier that is asked too: the name of the step that trained it, or its folder; none when empty.
        min_agreement: Least chance with which it gives the category.
    """

    decides: ClassVar[bool] = True  # anew each time where the dataset outlives runs

    min_score: float = 0.3
    max_cover: float = 0.97
    min_inside: float = 0.5
    encoder: str = "starter:retrieval"
    lowest: float = 0.1
    max_cosine: float = 0.985
    classifier: str = ""
    min_agreement: float = 0.2

    def __post_init__(self) -> None:
        """Check the thresholds."""
        for name, least in (("min_score", 0.0), ("max_cover", 0.0), ("min_inside", -1.0), ("max_cosine", 0.0)):
            if not least < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in {'[' if least < 0 else '('}0, 1], got {getattr(self, name)}")
        if not 0 <= self.lowest < 1 or not 0 <= self.min_agreement <= 1:
            told = f"{self.lowest:g} and {self.min_agreement:g}"
            raise ValueError(f"lowest must lie in [0, 1) and min_agreement in [0, 1], got {told}")

    def models(self) -> tuple[str, ...]:
        """Name the encoder."""
        return (self.encoder,) if self.encoder else ()

    def inputs(self) -> tuple[Path, ...]:
        """Name the classifier where it is a folder."""
        return (Path(self.classifier),) if Path(self.classifier, "tilth.json").exists() else ()

    def run(self, work: Work) -> Facts:
        """Judge every generated image.

        Raises:
            InputError: There are generated images, and no model has looked at any.
        """
        looked = work.dataset.count(both(WANTED, "array_has(kinds, 'model')"))
        if work.dataset.count(WANTED) and not looked:
            raise InputError(f"{work.name}: no model has looked at the generated images; put 'ground' before this step")
        if not looked:
            return {"kept": 0, "dropped": 0, "acceptance": None}
        real = _real_of(work) if self.encoder else ""
        self._measure(work, real)
        columns: dict[str, dict[str, Json]] = {}
        images, gone, prompts = list[Seen](), list[Seen](), dict[str, str]()
        for sample in work.dataset.samples(WANTED, images=False, dropped=True):
            wrong, columns[sample.id] = self._found(sample)
            (gone if sample.drops else images).append(_seen(sample, wrong, columns[sample.id]))
            if prompt := str(sample.origin.get("prompt") or ""):  # nothing is drawn of what is pasted
                prompts[sample.id] = prompt
        limits = Limits(lowest=self.lowest, max_cosine=self.max_cosine, min_agreement=self.min_agreement)
        verdict = decide(images, limits, self._real(work, images, real), gone)
        results = {}
        for one in images:
            rank: dict[str, Json] = {RANK: verdict.ranks[one.id]} if one.id in verdict.ranks else {}
            results[one.id] = Result(columns=columns[one.id] | rank, dropped=verdict.reasons[one.id])
        Apply.to(work, results)
        return _told(images, verdict.reasons, prompts)

    def _measure(self, work: Work, real: str) -> None:
        """Let the models look at images that they have not seen yet."""
        texts = {category.name: category.prompts for category in work.policy.pictured}
        look = Look(encoder=self.encoder, texts=texts, device=work.device)
        work.map(look, WANTED, label=f"{work.name}: look")
        if real:
            work.map(look, real, label=f"{work.name}: look at real images")
        if self.classifier:
            named = self.classifier in work.artifacts
            folder = str(work.artifact(self.classifier) if named else Path(self.classifier))
            work.map(
                Agree(classifier=folder, encoder=self.encoder, device=work.device), WANTED, label=f"{work.name}: ask"
            )

    def _found(self, sample: Sample) -> tuple[str, dict[str, Json]]:
        """Compare the category that an image was asked for with what models found in it; return what is wrong, and the measures."""
        asked = str(sample.origin.get("category", ""))
        said = [claim for claim in sample.claims if claim.kind == "model"]
        seen = [c for c in said if c.says == "label" and c.box_xyxy and c.score >= self.min_score]
        right = [c for c in seen if c.category == asked]
        score = max((c.score for c in said if c.category == asked), default=0.0)
        cover, inside = _cover(sample, right), _inside(sample, right)
        columns: dict[str, Json] = {
            "adherence.asked": asked,
            "adherence.score": round(score, 4),
            "adherence.cover": round(float(cover.min(initial=1)), 4),
            "adherence.inside": round(float(inside.max(initial=0)), 4),
        }
        if not asked:  # it was made of an image whose labels it has
            return "", columns
        if not said:
            return "no model has looked at it", columns
        if sample.origin.get("instead"):
            return f"asked for a look-alike, found {asked}" if right else "", columns
        if not right:
            return f"asked for {asked}, {_found_instead(sample, seen)}", columns
        if (cover > self.max_cover).all():
            return f"asked for {asked}, box covers everything", columns
        if (inside[cover <= self.max_cover] < self.min_inside).all():
            return f"asked for {asked}, found in another place", columns
        return "", columns

    @staticmethod
    def _real(work: Work, images: Sequence[Seen], real: str) -> Real:
        """Return what is known of the real images that nothing may be a copy of."""
        found = Real()
        if HASH in work.dataset.measured():
            if lacking := sum(one.hash is None for one in images):
                told = f"  {lacking:,} of {len(images):,} generated images have no hash to find copies by, or are too plain for one"
                work.events.emit("not_hashed", step=work.name, images=lacking, message=told)
            where = both("not made and split != 'test'", f"{QUALITY} >= {CLEAR}")
            rows = [(str(id_), str(text)) for id_, text in work.dataset.cells("id", HASH, where=where) if text]
            if rows:
                found = replace(
                    found, hash_ids=[id_ for id_, _ in rows], hashes=np.stack([_words(text) for _, text in rows])
                )
        if real:
            pairs = [(s.id, v) for s in work.dataset.samples(real, images=False) if (v := s.columns.get(VECTOR))]
            if pairs:
                vectors = np.array([v for _, v in pairs], np.int8)
                found = replace(found, vector_ids=[id_ for id_, _ in pairs], vectors=vectors)
        return found


def _real_of(work: Work) -> str:
    """Return the condition on real images that show something that was asked for; empty when nothing was."""
    names = sorted(
        {
            name
            for each in work.dataset.samples(WANTED, images=False)
            if (name := str(each.origin.get("category") or ""))
        }
    )
    shows = " or ".join(f"array_has(categories, {quoted(name)})" for name in names)
    return both("not made and split != 'test'", shows) if shows else ""


def _seen(sample: Sample, wrong: str, columns: dict[str, Json]) -> Seen:
    """Gather what was measured of an image."""
    numbers = {
        name: float(str(sample.columns[f"adherence.{name}"]))
        for name in ("brightness", "contrast", "smoothness", "match")
        if f"adherence.{name}" in sample.columns
    }
    vector, parents = sample.columns.get(VECTOR), sample.origin.get("parents")
    clear = float(str(sample.columns.get(QUALITY) or 0)) >= CLEAR
    asked, found = str(columns["adherence.asked"]), float(str(columns["adherence.score"]))
    agrees = float(str(sample.columns.get(AGREES, "nan")))
    # an image drawn anew in another style, or with another face, is like others by intent
    alone = not asked or bool(sample.origin.get("consent"))
    # the less the harmless one of an edited pair shows of the category, the better
    if sample.origin.get("instead"):
        asked, found, agrees = f"look-alike of {asked}", 1 - found, float("nan")
        numbers.pop("match", None)
    return Seen(
        id=sample.id,
        category=asked,
        style=str(sample.columns.get(STYLE) or sample.origin.get("style") or ""),
        alone=alone,
        found=found,
        wrong=wrong or ("" if "brightness" in numbers else "cannot be read"),
        agrees=agrees,
        vector=np.array(vector, np.int8) if vector else None,
        hash=_words(str(sample.columns[HASH])) if clear else None,
        parents=tuple(map(str, parents)) if isinstance(parents, list | tuple) else (),
        place=_place(sample),
        **numbers,
    )


def _place(sample: Sample) -> Box | None:
    """Return the box that was drawn into; None for the whole image."""
    hole = sample.origin.get("hole_xyxy")
    if isinstance(hole, list | tuple) and len(hole) == 4:
        x0, y0, x1, y1 = (float(str(value)) for value in hole)
        return x0, y0, x1, y1
    return None


def _words(text: str) -> Words:
    """Turn a PDQ hash of 64 hex digits into four numbers."""
    return np.frombuffer(bytes.fromhex(text), np.uint64)


def _told(images: Sequence[Seen], reasons: Mapping[str, str], prompts: Mapping[str, str]) -> dict[str, Json]:
    """Count what was kept: in all, by category and style, and by prompt."""
    groups: dict[str, dict[str, list[bool]]] = {what: defaultdict(list) for what in ("category", "style", "prompt")}
    for one in images:
        prompt = [("prompt", prompts[one.id])] if one.id in prompts else []
        category = [("category", one.category)] if one.category else []
        for what, name in (*category, ("style", one.style), *prompt):
            groups[what][name].append(not reasons[one.id])
    kept = sum(not reason for reason in reasons.values())
    worst = sorted(groups["prompt"].items(), key=lambda item: (sum(item[1]) / len(item[1]), -len(item[1]), item[0]))
    return {
        "kept": kept,
        "dropped": len(images) - kept,
        "acceptance": round(kept / len(images), 4) if images else None,
        "kept_by_category": {name: sum(told) for name, told in sorted(groups["category"].items())},
        **{
            f"acceptance_by_{what}": {name: round(sum(t) / len(t), 4) for name, t in sorted(groups[what].items())}
            for what in ("category", "style")
        },
        "prompts": len(groups["prompt"]),
        "prompts_never_accepted": sum(not any(told) for told in groups["prompt"].values()),
        "worst_prompts": [
            {"prompt": name, "kept": sum(told), "made": len(told)} for name, told in worst[:WORST] if not all(told)
        ],
        "diversity": dict(diversity([one for one in images if not reasons[one.id]])),
        "reasons": dict(Counter(reason.partition(": ")[0] for reason in reasons.values() if reason).most_common(30)),
    }


def _boxes(claims: Sequence[Claim]) -> Boxes:
    return np.array([c.box_xyxy for c in claims if c.box_xyxy], np.float64).reshape(-1, 4)


def _cover(sample: Sample, right: Sequence[Claim]) -> Boxes:
    """Return the part of the image that each box takes, `(n,)`."""
    return areas(_boxes(right)) / (sample.size_wh[0] * sample.size_wh[1])


def _inside(sample: Sample, right: Sequence[Claim]) -> Boxes:
    """Return the part of each box that lies where the thing was asked for, `(n,)`; all of it when any place would do."""
    asked = _boxes([c for c in sample.claims if c.kind == "synth"])
    found = _boxes(right)
    if not len(asked) or not len(found):
        return np.ones(len(found))
    return np.asarray(intersections(found, asked).max(1) / np.maximum(areas(found), 1e-9), np.float64)


def _found_instead(sample: Sample, seen: Sequence[Claim]) -> str:
    """Say what a model saw: other categories, or look-alikes that took the box from the category."""
    others = {str(claim.category) for claim in seen}
    for name in (name for name in sample.columns if name.endswith(".removed")):
        if isinstance(rows := sample.columns[name], Sequence):
            others |= {
                str(row.get("phrase")) for row in rows if isinstance(row, dict) and row.get("reason") == "look-alike"
            }
    return f"found {', '.join(sorted(others))}" if others else "nothing found"
