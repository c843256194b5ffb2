"""The cascade: clear cases stop at Stage 1, others are read and judged; the policy's thresholds decide the action.

Where the policy has a signpost, a category that says where there are words (`Category.is_signpost`), only images that show one are read.
Where it has none, nobody knows which images hold words, so every image that Stage 1 does not block is read: harm that is only written
would otherwise pass unread as clear.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from tilth.errors import InputError
from tilth.images import Image
from tilth.policy import Category, Policy
from tilth.runtime.stages.reading import Reader
from tilth.runtime.stages.route import Router, Way
from tilth.runtime.stages.stage1 import Found, Screen, Stage1
from tilth.runtime.stages.stage2 import Stage2, Unjudged


class Action(StrEnum):
    """What to do with an image, mildest first."""

    ALLOW = "allow"
    REVIEW = "review"
    BLOCK = "block"


SEVERITY = {Action.ALLOW: 0, Action.REVIEW: 1, Action.BLOCK: 2}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is decided about one image.

    Args:
        action: The strictest of all categories.
        actions: By category of the policy.
        scores: Probability of each category of the policy.
        stage: The stage that decided.
        reason: Why Stage 1 was or was not enough.
        boxes: What the detector found.
        text: The words in the image; empty when nobody read or there were none.
        of: What was judged; of a text, the scores of what can only be pictured are 0 and say nothing.
        route: Where the router sent it (`Way`); empty where nothing is routed.
        degraded: Why the language model did not judge the words; empty when it did, or when there were none.
        unjudged: The categories that are open for that; a person is to look, and their scores say nothing.
        timings_ms: Wall-clock milliseconds by part: `stage1`, `ocr`, `language`, `total`; of a batch, an image's share.
    """

    action: Action
    actions: Mapping[str, Action]
    scores: Mapping[str, float]
    stage: Literal[1, 2]
    reason: str
    boxes: tuple[Found, ...] = ()
    text: str = ""
    of: Literal["image", "text"] = "image"
    route: str = ""
    degraded: str = ""
    unjudged: tuple[str, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def flagged(self) -> bool:
        """Whether anybody needs to do anything."""
        return self.action is not Action.ALLOW


@dataclass(frozen=True, kw_only=True)
class Case:
    """An image that Stage 1 leaves open.

    Args:
        screen: What Stage 1 says of it.
        text: The words in it; empty until they are read, or when there are none.
        route: As of a verdict.
        timings_ms: As of a verdict.
    """

    screen: Screen
    text: str = ""
    route: str = ""
    timings_ms: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Moderator:
    """Both stages as one; safe to share between threads.

    Args:
        policy: Categories and thresholds.
        stage1: Sees every image.
        stage2: Sees only prompts; None where Stage 1 decides alone.
        reader: Reads the words of the images that Stage 1 leaves open; None without Stage 2.
        clear_below: An image whose scores all lie below it is allowed by Stage 1 alone.
        router: Says of what Stage 2 would be asked whether it needs to be; None to ask it always.
        name: Of the bundle.
        clock: Seconds.
    """

    policy: Policy
    stage1: Stage1
    stage2: Stage2 | None
    reader: Reader | None
    clear_below: float
    router: Router | None = None
    name: str = ""
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        """Check the threshold.

        Raises:
            InputError: `clear_below` would let an image pass that the policy wants reviewed.
        """
        lowest = min((c.review_above for c in self.policy.categories if c.name in self.stage1.labels), default=1.0)
        if self.clear_below > lowest:
            raise InputError(f"clear_below must not exceed the lowest review_above, {lowest}, got {self.clear_below}")

    def moderate(self, images: Sequence[Image]) -> list[Verdict]:
        """Judge images `(h, w, 3)` of any size; a batch gives what its images give one by one, up to rounding."""
        seen = self.see(images)
        cases = [self.read(image, one) for image, one in zip(images, seen, strict=True) if isinstance(one, Case)]
        judged = iter(self.judge(cases))
        return [next(judged) if isinstance(one, Case) else one for one in seen]

    def see(self, images: Sequence[Image]) -> list[Verdict | Case]:
        """Let Stage 1 look: its verdict on each image, or a case for Stage 2, whose words nobody has read yet."""
        if not images:
            return []
        began = self.clock()
        screens = self.stage1(images)
        stage1_ms = 1000 * (self.clock() - began) / len(images)
        return [self.sort(screen, stage1_ms) for screen in screens]

    def sort(self, screen: Screen, stage1_ms: float = 0.0) -> Verdict | Case:
        """Return the verdict of Stage 1 on an image that it has seen, or a case for Stage 2.

        Args:
            screen: What it said.
            stage1_ms: What that took.
        """
        timings = {"stage1": stage1_ms}
        if self.stage2 is None or self.reader is None:
            return self._verdict(screen, screen.scores, 1, "no second stage", timings)
        if verdict := self._clear_case(screen, stage1_ms):
            return verdict
        said = self.router.of_screen(screen) if self.router else None
        if said and said.way is Way.CLEAR:
            alone = self._verdict(screen, screen.scores, 1, "routed: no words that need reading", timings)
            return replace(alone, route=Way.CLEAR)
        return Case(screen=screen, route=said.way if said else "", timings_ms=timings)

    def read(self, image: Image, case: Case) -> Case:
        """Read the words of an image that Stage 1 left open."""
        began = self.clock()
        text = self.reader(image) if self.reader else ""
        return replace(case, text=text, timings_ms={**case.timings_ms, "ocr": 1000 * (self.clock() - began)})

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Judge cases whose words were read; the language model is asked about those that have some.

        Where it does not answer, Stage 1 decides what is pictured, and a person what is written.
        """
        written = [case for case in cases if case.text]
        began = self.clock()
        asked = self.stage2([case.screen for case in written], [c.text for c in written]) if self.stage2 else []
        language_ms = 1000 * (self.clock() - began) / max(1, len(written))
        chances = iter(asked)
        return [
            self._judged_case(
                case,
                next(chances) if case.text else {},
                {**case.timings_ms, "language": language_ms if case.text else 0.0},
            )
            for case in cases
        ]

    @property
    def signposts(self) -> tuple[str, ...]:
        """The policy's signposts that Stage 1 knows: what says that reading is worth it."""
        return tuple(name for name in self.policy.signposts if name in self.stage1.labels)

    @property
    def judged_in_texts(self) -> tuple[str, ...]:
        """The categories that Stage 2 can find in a text without an image."""
        known = self.stage2.labels if self.stage2 else ()
        return tuple(category.name for category in self.policy.written if category.name in known)

    def check_texts(self) -> Stage2:
        """Return what judges texts that come without an image.

        Raises:
            InputError: This policy, or its bundle, judges images alone.
        """
        if self.stage2 is None or not self.judged_in_texts:
            what = "has no language model" if self.stage2 is None else "has no category that words alone decide"
            raise InputError(f"texts are not judged here, as the bundle {what}; send images")
        return self.stage2

    def moderate_texts(self, texts: Sequence[str]) -> list[Verdict]:
        """Judge texts that come without an image, as if they stood on a board that fills one; those that the router leaves open.

        Raises:
            InputError: This policy, or its bundle, judges images alone.
        """
        self.check_texts()
        routed = [self._routed(text) for text in texts]
        asked = iter(self._asked([text for text, (_, one) in zip(texts, routed, strict=True) if one is None]))
        return [one or replace(next(asked), route=way) for way, one in routed]

    def _routed(self, text: str) -> tuple[str, Verdict | None]:
        """Return where the router sends a text, and its verdict; none where the language model is to judge it.

        It decides only what the policy's thresholds say of its chances as well.
        """
        began = self.clock()
        said = self.router.of_text(text) if self.router else None
        if said is None:
            return "", None
        if not {*self.judged_in_texts} <= {*said.chances}:  # it goes the dear way unread, or is of other categories
            return Way.CHECK, None
        scores = {name: said.chances[name] for name in self.judged_in_texts}
        verdict = self._verdict(
            Screen(scores={}), scores, 1, f"routed: {said.way}", {"route": 1000 * (self.clock() - began)}
        )
        verdict = replace(verdict, of="text", route=said.way)
        looked = [name for name in scores if self.policy[name].review_above < 1]
        if said.way is Way.PERSON and looked and verdict.action is not Action.BLOCK:
            likely = max(looked, key=scores.__getitem__)
            line = (self.policy[likely].review_above + self.policy[likely].block_above) / 2
            actions, scores = {**verdict.actions, likely: Action.REVIEW}, {**verdict.scores, likely: line}
            return said.way, replace(verdict, action=Action.REVIEW, actions=actions, scores=scores)
        agreed = {Way.CLEAR: Action.ALLOW, Way.BLOCK: Action.BLOCK}.get(said.way)
        return (said.way, verdict) if verdict.action is agreed else (Way.CHECK, None)

    def _asked(self, texts: Sequence[str]) -> list[Verdict]:
        stage2 = self.check_texts()
        if not texts:
            return []
        boxes = tuple(Found(category=name, box_xyxy=(0, 0, 1, 1), score=1.0) for name in self.signposts[:1])
        board = Screen(scores=dict.fromkeys(self.signposts[:1], 1.0), boxes=boxes)
        began = self.clock()
        judged, blank = stage2([board] * len(texts), texts), Screen(scores={})
        timings = {"language": 1000 * (self.clock() - began) / len(texts)}
        verdicts = []
        for one in judged:
            if isinstance(one, Unjudged):
                verdict = self._for_a_person(self._verdict(blank, {}, 1, "text that nobody judged", timings), one)
            else:
                scores = {name: one[name] for name in self.judged_in_texts}
                verdict = self._verdict(blank, scores, 2, "text", timings)
            verdicts.append(replace(verdict, of="text"))
        return verdicts

    def _clear_case(self, screen: Screen, stage1_ms: float) -> Verdict | None:
        """Return the verdict of Stage 1, or None when there may be words to read.

        To clear an image, no score may be worth a look; to block it, a box must say where. What lies in between is read where Stage 1
        sees writing; without, there is nothing that Stage 2 could add, and the calibrated scores decide.
        """
        timings = {"stage1": stage1_ms}
        if self.signposts and all(score < self.clear_below for score in screen.scores.values()):
            return self._verdict(screen, screen.scores, 1, "clear: nothing found", timings)
        boxed = {found.category for found in screen.boxes}
        sure = [
            label for label, score in screen.scores.items()
            if score > self.policy[label].block_above and (label in boxed or label not in self.stage1.boxed)
        ]  # fmt: skip
        if sure:
            return self._verdict(screen, screen.scores, 1, f"clear: {', '.join(sure)}", timings)
        if self.signposts and not self._has_writing(screen):
            return self._verdict(screen, screen.scores, 1, "doubtful, without writing", timings)
        return None

    def _has_writing(self, screen: Screen) -> bool:
        boxed = any(found.category in self.signposts for found in screen.boxes)
        return boxed or any(screen.scores.get(name, 0.0) >= self.clear_below for name in self.signposts)

    def _judged_case(
        self, case: Case, chances: Mapping[str, float] | Unjudged, timings_ms: Mapping[str, float]
    ) -> Verdict:
        """Combine the two stages: what is written is Stage 2's to judge, what is pictured stays with Stage 1.

        A calibrated score of models that saw the pixels ranks images better than a model that only reads about it.
        """
        screen = case.screen
        if isinstance(chances, Unjudged):
            alone = self._verdict(screen, screen.scores, 1, "writing that nobody judged", timings_ms)
            return replace(self._for_a_person(alone, chances), text=case.text, route=case.route)
        written = {category.name for category in self.policy.written}
        scores = {**screen.scores, **{name: chance for name, chance in chances.items() if name in written}}
        reason = "writing" if self._has_writing(screen) else "may hold words"
        return replace(self._verdict(screen, scores, 2, reason, timings_ms), text=case.text, route=case.route)

    def _for_a_person(self, verdict: Verdict, why: Unjudged) -> Verdict:
        """Have a person look at what is open because nobody judged the words: what nobody read is not thereby safe.

        The score of such a category is put where the policy's thresholds say the same.
        """
        known = self.stage2.labels if self.stage2 else ()
        lines = {
            c.name: (c.review_above + c.block_above) / 2
            for c in self.policy.written
            if c.name in known and c.review_above < 1
        }
        actions = {**verdict.actions, **dict.fromkeys(lines, Action.REVIEW)}
        return replace(
            verdict, action=max(actions.values(), key=SEVERITY.__getitem__), actions=actions,
            scores={**verdict.scores, **lines}, degraded=why.why, unjudged=tuple(lines),
        )  # fmt: skip

    def _verdict(
        self,
        screen: Screen,
        scores: Mapping[str, float],
        stage: Literal[1, 2],
        reason: str,
        timings_ms: Mapping[str, float],
    ) -> Verdict:
        every = {category.name: min(1.0, scores.get(category.name, 0.0)) for category in self.policy.categories}
        actions = {category.name: _action(category, every[category.name]) for category in self.policy.categories}
        return Verdict(
            action=max(actions.values(), key=SEVERITY.__getitem__), actions=actions, scores=every, stage=stage,
            reason=reason, boxes=screen.boxes, timings_ms={**timings_ms, "total": sum(timings_ms.values())},
        )  # fmt: skip


def _action(category: Category, score: float) -> Action:
    if score > category.block_above:
        return Action.BLOCK
    return Action.REVIEW if score > category.review_above else Action.ALLOW
