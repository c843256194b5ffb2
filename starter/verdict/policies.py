"""Made-up policies in words: categories of one to three clauses, each of which says that a topic counts or that it is fine.

What nobody speaks of is fine. Two policies of a pair differ in one thing, so that the same words get opposite verdicts.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tilth.runtime.stages.template import SAFE
from tilth.starter.verdict.topics import AREAS, TOPICS
from tilth.starter.world.scene import KINDS, LOOK_ALIKES, UNSAFE_KINDS

# How a clause is put: `{n}` is a noun, `{N}` one that begins a sentence, `{v}` a verb. Training never shows the unseen ones, but all words
# of theirs, so "not", "too", "but" and "also" have to be read with what they stand beside.
CORES = ("Words that {v}.", "{N}.", "Signs that {v}.", "Words of {n}.", "Signs with {n}.", "Signs of {n}.")
SAID = {"are fine": False, "are allowed": False, "are forbidden": True, "are meant": True, "count": True}
BEFORE, AFTER = ("{N}", "But {n}", "Also {n}"), (".", ", too.")
BARE = {True: ("Also {n}.", "And also {n}.", "And {n}."), False: ("But not {n}.", "Except {n}.", "Not {n}.")}
UNSEEN = ("Signs with {n}.", "Signs of {n}.", "{N} are allowed, too.", "{N} are meant.", "But {n} are not allowed.", "Also {n} count.",
          "But {n} are fine.", "{N} are not forbidden.", "Also {n} are not fine.", "{N} do not count, too.", "And {n}.",
          "Not {n}.")  # fmt: skip


def _ways() -> dict[bool, tuple[str, ...]]:
    """List how a clause is put: counts or not -> frames."""
    found: dict[bool, list[str]] = {counts: list(bare) for counts, bare in BARE.items()}
    for said, counts in SAID.items():
        denied = said.replace("are ", "are not ").replace("count", "do not count")
        for words, so in ((said, counts), (denied, not counts)):
            found[so] += [f"{before} {words}{after}" for before in BEFORE for after in AFTER]
    return {counts: tuple(frames) for counts, frames in found.items()}


CLAUSES = _ways()
PICTURED = ("A {k} of any kind, whole or in part.", "A {k}.", "A {k}, shown or drawn.", "{k} of any kind.")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One sentence of a definition.

    Args:
        topics: What it speaks of; nothing where it is about a picture.
        counts: Whether they are against the policy.
        text: The sentence.
    """

    topics: tuple[str, ...]
    counts: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A category."""

    name: str
    clauses: tuple[Clause, ...]
    pictured: bool = False

    @property
    def definition(self) -> str:
        """The clauses, one after the other."""
        return " ".join(clause.text for clause in self.clauses)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """A policy, in the order of its letters from B on; A is `safe`."""

    rules: tuple[Rule, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The verdicts."""
        return (SAFE, *(rule.name for rule in self.rules))

    @property
    def definitions(self) -> dict[str, str]:
        """What they mean, by name."""
        return {rule.name: rule.definition for rule in self.rules}

    @property
    def pictured(self) -> tuple[str, ...]:
        """What is no matter of words."""
        return tuple(rule.name for rule in self.rules if rule.pictured)

    @property
    def spoken_of(self) -> tuple[str, ...]:
        """The topics that some clause speaks of."""
        return tuple(topic for rule in self.rules for clause in rule.clauses for topic in clause.topics)

    def verdict_on(self, topic: str) -> str:
        """Say what words of a topic are: the name of a category, or `safe`."""
        found = (rule.name for rule in self.rules for c in rule.clauses if c.counts and topic in c.topics)
        return next(found, SAFE)


def starter() -> Rules:
    """Return the starter's own policy, as `configs/policies/starter.yaml` has it."""
    things = {"knife": "A knife of any kind, whole or in part. Spoons are fine.", "cigarette": "A cigarette, lit or not. Pens are fine.",
              "bottle": "A bottle of alcohol. Cups are fine.", "pill": "A pill or a capsule. Candy is fine.",
              "dice": "Dice, as used for gambling. Wrapped gifts are fine."}  # fmt: skip
    pictured = [Rule(name=name, clauses=_sentences(text), pictured=True) for name, text in things.items()]
    written = {"gambling_ad": "stakes", "illicit_sale": "unchecked", "threat": "threat"}
    cores = [
        Rule(name=name, clauses=(Clause(topics=(t,), counts=True, text=f"Words that {TOPICS[t].phrases('verbs', False)[0]}."),))
        for name, t in written.items()
    ]  # fmt: skip
    return Rules(rules=(*pictured, *cores))


def _sentences(text: str) -> tuple[Clause, ...]:
    """Part what is said of a picture, which the words of a sign have nothing to do with."""
    return tuple(
        Clause(topics=(), counts=i == 0, text=f"{part}.") for i, part in enumerate(text.rstrip(".").split(". "))
    )


def draw_policy(rng: np.random.Generator, *, held_out: bool = False, short: bool = False) -> Rules:
    """Draw a policy; of a hundred long ones, fifty are the starter's own.

    Args:
        rng: Decides the draw.
        held_out: Of wordings and combinations of topic and wording that training never shows.
        short: With few categories that are pictured, so that it takes little time to read.
    """
    if not short and not held_out and rng.random() < 0.5:
        return starter()
    free = [str(t) for t in rng.permutation(list(TOPICS))]
    pictured = [_picture(rng) for _ in range(int(rng.choice([0, 1] if short else [1, 2, 3, 5])))]
    written = [
        _written(free, rng, held_out) for _ in range(int(rng.choice([1, 2, 3, 4, 5], p=[0.15, 0.25, 0.3, 0.2, 0.1])))
    ]
    rules = [*pictured, *written]
    if rng.random() < 0.6:
        rules = [rules[i] for i in rng.permutation(len(rules))]
    return Rules(rules=_named(rules, rng))


def _picture(rng: np.random.Generator) -> Rule:
    if rng.random() < 0.2:  # what it has no word for
        name = "".join(rng.choice(list(LETTERS), int(rng.integers(3, 9))))
        return Rule(name=name, clauses=_sentences(f"A {name}."), pictured=True)
    name = str(rng.choice(UNSAFE_KINDS if rng.random() < 0.7 else KINDS))
    text = str(rng.choice(PICTURED)).format(k=name)
    other = LOOK_ALIKES.get(name, str(rng.choice(KINDS)))
    more = f" {other.capitalize()}s are fine." if rng.random() < 0.5 else ""
    return Rule(name=name, clauses=_sentences(text + more), pictured=True)


def _written(free: list[str], rng: np.random.Generator, held_out: bool) -> Rule:
    """Draw a category of one or two topics that nothing speaks of yet, with clauses about others that are easily taken for them."""
    topics = [free.pop()] if rng.random() < 0.85 or len(free) < 2 else [free.pop(), free.pop()]
    clauses = [core(topics, rng, held_out)]
    for _ in range(int(rng.choice([0, 1, 2], p=[0.35, 0.45, 0.2]))):
        near = [t for t in AREAS[TOPICS[topics[0]].area] if t in free]
        pool = near if near and rng.random() < 0.75 else free
        if pool:
            topic = str(rng.choice(pool))
            free.remove(topic)
            clauses.append(clause(topic, bool(rng.random() < 0.5), rng, held_out))
    return Rule(name=topics[0], clauses=tuple(clauses))


def core(topics: Sequence[str], rng: np.random.Generator, held_out: bool) -> Clause:
    """Word the sentence that a definition begins with."""
    frame = _frame(CORES, topics[0], rng, held_out)
    phrases = {form: " or ".join(_phrase(t, form, frame, rng, held_out) for t in topics) for form in ("verbs", "nouns")}
    return Clause(topics=tuple(topics), counts=True, text=_filled(frame, phrases["nouns"], phrases["verbs"]))


def clause(topic: str, counts: bool, rng: np.random.Generator, held_out: bool) -> Clause:
    """Word a sentence that says whether something counts."""
    frame = _frame(CLAUSES[counts], topic, rng, held_out)
    return Clause(
        topics=(topic,), counts=counts, text=_filled(frame, _phrase(topic, "nouns", frame, rng, held_out), "")
    )


def _frame(frames: Sequence[str], topic: str, rng: np.random.Generator, held_out: bool) -> str:
    """Choose how a clause is put; one in five pairs of a topic and a way is never seen in training."""
    kept = [f for f in frames if f not in UNSEEN and zlib.crc32(f"{topic} {f}".encode()) % 5]
    others = [f for f in frames if f not in kept]
    return str(rng.choice(others if held_out else kept))


def _phrase(topic: str, form: str, frame: str, rng: np.random.Generator, held_out: bool) -> str:
    """Choose what a topic is called; of held-out policies half are called what training never shows."""
    return str(rng.choice(TOPICS[topic].phrases(form, held_out and bool(rng.random() < 0.5))))


def _filled(frame: str, noun: str, verb: str) -> str:
    return frame.format(n=noun, N=noun[:1].upper() + noun[1:], v=verb)


def _named(rules: Sequence[Rule], rng: np.random.Generator) -> tuple[Rule, ...]:
    """Give written categories names, which mostly fit and sometimes mislead; no two are alike."""
    named: list[Rule] = []
    for rule in rules:
        name = rule.name if rule.pictured else _name(rule.name, rng)
        named.append(replace(rule, name=_unlike(name, [other.name for other in named], rng)))
    return tuple(named)


def _unlike(name: str, taken: Sequence[str], rng: np.random.Generator) -> str:
    while name in taken:
        name = f"{name.rstrip('0123456789_')}_{rng.integers(2, 100)}"
    return name


def _name(topic: str, rng: np.random.Generator) -> str:
    chance = rng.random()
    if chance < 0.2:
        return f"{rng.choice(['rule', 'category', 'group', 'x', 'k'])}_{rng.integers(1, 100)}"
    if chance < 0.4:
        topic = str(rng.choice(list(TOPICS)))
    return str(rng.choice(TOPICS[topic].names.split("|")))


def twin(policy: Rules, rng: np.random.Generator, *, held_out: bool = False) -> tuple[Rules, tuple[str, ...]]:
    """Return a policy that differs in one thing, and the topics whose verdict that changes.

    A clause is turned round or added, a category comes, goes, or changes names with another, the order changes.
    """
    rules = list(policy.rules)
    written = [i for i, rule in enumerate(rules) if not rule.pictured]
    free = [str(t) for t in rng.permutation([t for t in TOPICS if t not in policy.spoken_of])]
    turned = [(i, j) for i in written for j in range(1, len(rules[i].clauses))]
    chance = rng.random()
    if chance < 0.55 and turned:
        i, j = turned[int(rng.integers(len(turned)))]
        old = rules[i].clauses[j]
        rules[i] = _with(rules[i], j, clause(old.topics[0], not old.counts, rng, held_out))
    elif chance < 0.75 and free:
        i = written[int(rng.integers(len(written)))]
        rules[i] = _with(rules[i], len(rules[i].clauses), clause(free[0], True, rng, held_out))
    elif chance < 0.82 and free:
        name = _unlike(_name(free[0], rng), policy.labels, rng)
        rules.insert(int(rng.integers(len(rules) + 1)), Rule(name=name, clauses=(core(free[:1], rng, held_out),)))
    elif chance < 0.89 and len(written) > 1:
        rules.pop(written[int(rng.integers(len(written)))])
    elif chance < 0.95 and len(written) > 1:
        a, b = (int(i) for i in rng.choice(written, 2, replace=False))
        rules[a], rules[b] = replace(rules[a], name=rules[b].name), replace(rules[b], name=rules[a].name)
    else:
        rules = [rules[i] for i in rng.permutation(len(rules))]
    other = Rules(rules=tuple(rules))
    return other, tuple(t for t in TOPICS if policy.verdict_on(t) != other.verdict_on(t))


def _with(rule: Rule, j: int, new: Clause) -> Rule:
    return replace(rule, clauses=(*rule.clauses[:j], new, *rule.clauses[j + 1 :]))
