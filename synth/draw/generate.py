"""Generate images where the dataset is thin: from words, along the edges of real images, or into benign ones."""

import hashlib
import json
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from tilth.data.files import write_beside
from tilth.data.where import one_of, quoted
from tilth.engine.steps import Facts, fingerprint, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.policy import Category, Policy
from tilth.synth.draw.making import Maker
from tilth.synth.draw.settings import Drawing, Files, Parts
from tilth.synth.plan.prompts import Request, Words, in_turn, shares
from tilth.synth.plan.survey import Survey, said_of, take_stock
from tilth.synth.safety.refusals import Finding, examine, examine_category, refuse

METHODS = ("text", "edges", "inpaint")
HOLE_SIDE = (0.5, 0.75)  # of the image's: large enough for one thing, small enough to leave the place recognisable
TRIES = 8  # parents that are looked at for one request before it is made from words alone


@step
class Generate:
    """Generate images of the categories and styles that have the fewest labels.

    Args:
        model: Stable Diffusion checkpoint, or another that diffusers draws from text with.
        licence: Of what is drawn; when empty, that of the model. An image made from another has that one's licence as well.
        count: Images wanted in all, shared out so that the thinnest categories and styles are filled first.
        per_category: Images of each category instead.
        categories: To generate; when empty, all that can be pictured, but for those of low severity.
        styles: Styles to draw from.
        methods: Share of each method: `text`, `edges` (of a real image of the category), `inpaint` (into a benign one).
        max_ratio: Most generated images for one real, labelled training image.
        words: What prompts are made of, as in `{template: "a {style} of a {thing}"}`.
        drawing: How to draw, as in `{steps: 30, guidance: 7.0}`.
        parts: What is added to the model, as in `{controlnet: starter:controlnet}`.
        files: How what is drawn is written, as in `{kind: webp}`.
    """

    model: str = "starter:diffusion"
    licence: str = ""
    count: int = 100
    per_category: int = 0
    categories: tuple[str, ...] = ()
    styles: tuple[str, ...] = ("photo",)
    methods: dict[str, float] = field(default_factory=lambda: {"text": 1.0})
    # Adding up to three generated images a real one still helped a classifier of a model tuned on the same data (Azizi
    # et al. 2023, arXiv:2304.08466); of models that were not, classifiers gain far less from more (Fan et al. 2023,
    # arXiv:2312.04567). One to one keeps the real images in the lead.
    max_ratio: float = 1.0
    words: Words = field(default_factory=Words)
    drawing: Drawing = field(default_factory=Drawing)
    parts: Parts = field(default_factory=Parts)
    files: Files = field(default_factory=Files)

    def __post_init__(self) -> None:
        """Check the settings, and refuse what is never generated."""
        if unknown := sorted(set(self.methods) - set(METHODS)):
            raise ValueError(f"methods must be among {', '.join(METHODS)}, got {', '.join(unknown)}")
        if not self.methods or min(self.methods.values()) < 0 or sum(self.methods.values()) <= 0:
            raise ValueError(f"methods need shares of at least 0, and one above, got {self.methods}")
        if self.methods.get("edges") and not self.parts.controlnet:
            raise ValueError("the method 'edges' needs a controlnet among the parts")
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")
        if self.per_category < 0:
            raise ValueError(f"per_category must be at least 0, got {self.per_category}")
        if not 0 <= self.max_ratio <= 100:
            raise ValueError(f"max_ratio must lie in [0, 100], got {self.max_ratio}")
        if not self.styles:
            raise ValueError("styles needs at least one style")
        if strays := sorted(set(self.parts.loras) - set(self.styles)):
            raise ValueError(f"loras are by style; there is no style {', '.join(strays)}")
        try:
            self._refuse()
        except InputError as error:
            raise ValueError(str(error)) from error

    def _refuse(self) -> None:
        """Read all words together: what is harmless in one group may not be beside that of another."""
        words, parts, negative = self.words, self.parts, self.drawing.negative_prompt
        refuse(
            {
                "template": f"{words.template} ; {words.inpaint_template}",
                "fillings": " ; ".join(word for choices in words.fillings.values() for word in choices),
                "styles": " ; ".join(self.styles),
                "negative prompt": negative,
                "adapters": " ; ".join(f"{style} {name}" for style, name in parts.loras.items()),
                "model": self.model,
                "controlnet": parts.controlnet,
            }
        )
        for category, prompts in words.prompts.items():
            for prompt in prompts:
                refuse({f"prompts of {category}": f"{category} ; {prompt}", "negative prompt": negative})

    def models(self) -> tuple[str, ...]:
        """Name all checkpoints."""
        return (self.model, *self.parts.names)

    def run(self, work: Work) -> Facts:
        """Plan once, then draw whatever is not drawn yet.

        Raises:
            InputError: A category is unknown, or what is asked for is never generated.
        """
        self.parts.refuse(self.model)
        plan = self._kept_plan(work)
        rows = json.dumps([vars(request) for request in plan.requests])
        key = fingerprint(self, str(work.seed), hashlib.sha256(rows.encode()).hexdigest())
        done = work.added(key)
        began = time.monotonic()
        maker = Maker(
            work,
            plan.requests,
            key,
            model=self.model,
            parts=self.parts,
            drawing=self.drawing,
            files=self.files,
            licence=self.licence,
        )
        rows_at_once = self.drawing.batch_size
        counts = work.add(key, maker.make(done), total=len(plan.requests), starts_at=done, commit_rows=rows_at_once)
        seconds, drawn = time.monotonic() - began, len(plan.requests) - done
        made, manifest = Counter[tuple[str, str]](), list[str]()
        for sample in work.dataset.samples(f"made and step = {quoted(work.name)}", images=False, dropped=True):
            if sample.origin.get("key") == key:
                made.update((what, str(sample.origin[what])) for what in ("category", "style", "method"))
                manifest.append(json.dumps({"id": sample.id, **sample.origin}, sort_keys=True) + "\n")
        write_beside(work.folder / "manifest.jsonl", "".join(manifest))
        failures = work.dataset.table(f"{work.name}-{key}").failures()
        return {
            "made": counts.get("ok", 0),
            "failed": counts.get("failed", 0),
            "planned": len(plan.requests),
            "wanted": plan.wanted,
            "left_out": self.left_out(work.policy),
            **{
                f"by_{what}": {v: n for (w, v), n in sorted(made.items()) if w == what}
                for what in ("category", "style", "method")
            },
            "failures": dict(Counter(reason.partition(": ")[2] for _, reason in failures)),
            "real_images": plan.real,
            "generated_before": plan.made,
            "parents_refused": plan.refused,
            "from_words_for_want_of_parents": plan.orphans,
            "seconds_per_image": round(seconds / drawn, 3) if drawn else None,
        }

    def _kept_plan(self, work: Work) -> "Plan":
        """Return the plan; it is kept in the step's folder, so that a killed run goes on with the same one."""
        path = work.folder / "plan.json"
        if path.exists():
            kept = json.loads(path.read_text())
            return Plan(**{**kept, "requests": [Request(**row) for row in kept["requests"]]})
        plan = self._plan(work)
        if len(plan.requests) < plan.wanted:
            work.events.emit(
                "capped",
                step=work.name,
                wanted=plan.wanted,
                planned=len(plan.requests),
                message=f"  {len(plan.requests)} of {plan.wanted} images: max_ratio {self.max_ratio:g} of {plan.real} real ones",
            )
        work.folder.mkdir(parents=True, exist_ok=True)
        write_beside(path, json.dumps({**vars(plan), "requests": [vars(request) for request in plan.requests]}))
        return plan

    def left_out(self, policy: Policy) -> dict[str, str]:
        """Say which of the policy's categories would be generated and never are, and why.

        Raises:
            InputError: The settings name a category that the policy does not have, or none is left.
        """
        chosen = self._chosen(policy)
        never = {name: found.reason for name in chosen if (found := self._examined(policy[name])) is not None}
        if chosen and len(never) == len(chosen):
            reasons = " and ".join(dict.fromkeys(never.values()))
            raise InputError(f"no category is left to generate: {reasons} is never generated, and no setting allows it")
        return never

    def _examined(self, category: Category) -> Finding | None:
        return examine_category(category, self.words.prompts.get(category.name, ()))

    def _chosen(self, policy: Policy) -> tuple[str, ...]:
        policy.check_pictured((*self.categories, *self.words.prompts), "generate")
        # One of low severity is a signpost on the way to a verdict, such as any board with writing: nothing to collect.
        return self.categories or tuple(c.name for c in policy.pictured if c.severity != "low")

    def _categories(self, work: Work) -> dict[str, Category]:
        chosen, never = self._chosen(work.policy), self.left_out(work.policy)
        for name, reason in never.items():
            work.events.emit(
                "left_out", step=work.name, category=name, message=f"  {name} is left out: {reason} is never generated"
            )
        return {name: work.policy[name] for name in chosen if name not in never}

    def _plan(self, work: Work) -> "Plan":
        categories = self._categories(work)
        stock = take_stock(work.dataset.samples(one_of("split", ("", "train")), images=False), categories)
        wanted = self.per_category * len(categories) or self.count
        room = min(wanted, max(0, int(self.max_ratio * stock.real) - stock.made))
        cells = [(category, style) for category in categories for style in self.styles]
        counts = shares(room, {} if self.per_category else stock.labels, cells)
        planner = _Planner(self, work, categories, stock)
        requests = [planner.request(number, *cell) for number, cell in enumerate(in_turn(counts))]
        # Neighbours share method and adapter, so that they can be drawn in one batch.
        requests.sort(key=lambda r: (METHODS.index(r.method), self.parts.adapter(r.style), r.number))
        return Plan(
            requests=requests,
            wanted=wanted,
            real=stock.real,
            made=stock.made,
            refused=planner.refused,
            orphans=planner.orphans,
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be made, and from what it was decided."""

    requests: list[Request]
    wanted: int
    real: int
    made: int
    refused: int
    orphans: int


class _Planner:
    """Chooses words, method and parent of each request; counts parents whose own words forbid their use."""

    def __init__(self, step_: Generate, work: Work, categories: dict[str, Category], stock: Survey) -> None:
        self._step, self._work, self._categories, self._stock = step_, work, categories, stock
        self._parents: dict[tuple[str, str], list[str]] = {}
        self._read: dict[str, str] = {}  # what came with a parent, in words
        self.refused = self.orphans = 0

    def request(self, number: int, category: str, style: str) -> Request:
        """Plan one image."""
        rng = np.random.default_rng((self._work.seed, number))
        total = sum(self._step.methods.values())
        method = str(rng.choice(list(self._step.methods), p=[share / total for share in self._step.methods.values()]))
        seed = int(rng.integers(2**31))
        parent, hole = "", None
        if method != "text":
            parent = self._parent(method, category, style, rng)
            if not parent:
                method, self.orphans = "text", self.orphans + 1
            elif method == "inpaint":
                hole = _hole(rng)
        prompt = self._step.words.write(self._categories[category], style, rng, inpaint=method == "inpaint")
        refuse({"prompt": prompt, "negative prompt": self._step.drawing.negative_prompt, "category": category})
        return Request(
            number=number,
            category=category,
            style=style,
            method=method,
            prompt=prompt,
            seed=seed,
            parent=parent,
            hole=hole,
        )

    def _parent(self, method: str, category: str, style: str, rng: np.random.Generator) -> str:
        kind = (method, category if method == "edges" else "")
        if kind not in self._parents:
            self._parents[kind] = self._stock.parents(method, category)
        ids = self._parents[kind]
        for _ in range(min(TRIES, len(ids))):
            id_ = ids[int(rng.integers(len(ids)))]
            if id_ not in self._read:
                self._read[id_] = said_of(self._work.dataset.read([id_])[0])
            told = {"reference": self._read[id_], "category": category, "style": style}
            if examine(told) is None:
                return id_
            self.refused += 1
        return ""


def _hole(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Draw a box in parts of the image's side."""
    width, height = rng.uniform(*HOLE_SIDE, 2)
    left, top = rng.uniform(0.05, 0.95 - width), rng.uniform(0.05, 0.95 - height)
    return float(left), float(top), float(left + width), float(top + height)
