"""Generate images where the dataset is thin: from words, along the edges of real images, of real images, or into them."""

import hashlib
import json
import time
from collections import Counter
from dataclasses import field
from typing import ClassVar

from tilth import models
from tilth.data.files import write_beside
from tilth.data.where import quoted
from tilth.engine.steps import Facts, fingerprint, step
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.policy import Category, Policy
from tilth.synth.draw.lengths import encoders
from tilth.synth.draw.making import Maker
from tilth.synth.draw.pairs import drawn_in_pairs, look_alikes
from tilth.synth.draw.planning import METHODS, Planner
from tilth.synth.draw.settings import Drawing, Files, Memory, Parts, Pasting
from tilth.synth.plan.plan import Plan
from tilth.synth.plan.prompts import Words
from tilth.synth.safety.refusals import Finding, examine_category, refuse


@step
class Generate:
    """Generate images of the categories and styles that have the fewest labels.

    Args:
        model: Stable Diffusion checkpoint, or another that diffusers draws from text with.
        licence: Of what is drawn; when empty, that of the model. An image made from another has that one's licence as well.
        count: Images wanted in all, shared out so that the thinnest categories and styles are filled first.
        per_category: Images of each category instead.
        again: Name of an earlier `generate` step, of which the images that were rejected are made up for, in words of which more were
            accepted; `count` is the most then.
        categories: To generate; when empty, all that can be pictured, but for those of low severity.
        styles: Styles to draw from.
        methods: Share of each method: `text`; `edges` and `image` (along the edges, or of the whole, of a real image of the category);
            `inpaint` and `paste` (drawn, or cut out of another, into a harmless image); `insert` and `replace` (edited pairs, two images
            each: the thing and its look-alike in one place of a harmless image, or of one that shows either).
        max_ratio: Most generated images for one real, labelled training image.
        words: What prompts are made of, as in `{template: "a {style} of a {thing}"}`.
        drawing: How to draw, as in `{steps: 30, guidance: 7.0}`.
        parts: What is added to the model, as in `{controlnet: starter:controlnet}`.
        memory: What is held where, as in `{offload: layers}`.
        pasting: How cut-outs are put into scenes, as in `{blend: seamless}`.
        files: How what is drawn is written, as in `{kind: webp}`.
    """

    refers: ClassVar[tuple[str, ...]] = ("again", "parts.loras")

    model: str = "starter:diffusion"
    licence: str = ""
    count: int = 100
    per_category: int = 0
    again: str = ""
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
    memory: Memory = field(default_factory=Memory)
    pasting: Pasting = field(default_factory=Pasting)
    files: Files = field(default_factory=Files)

    def __post_init__(self) -> None:
        """Check the settings, and refuse what is never generated."""
        if unknown := sorted(set(self.methods) - set(METHODS)):
            raise ValueError(f"methods must be among {', '.join(METHODS)}, got {', '.join(unknown)}")
        if not self.methods or min(self.methods.values()) < 0 or sum(self.methods.values()) <= 0:
            raise ValueError(f"methods need shares of at least 0, and one above, got {self.methods}")
        if self.methods.get("edges") and not self.parts.nets:
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
                "adapters": " ; ".join(f"{style} {name}" for style in parts.loras for name in parts.of_style(style)),
                "model": self.model,
                "controlnet": " ; ".join(name for net in parts.nets for name in (net.net, net.detector)),
                "inpainting": parts.inpainting,
            }
        )
        given = {"things": words.things, "prompts": words.prompts, "look-alikes": words.look_alikes}
        for what, by_category in given.items():
            for category, texts in by_category.items():
                for text in texts:
                    refuse({f"{what} of {category}": f"{category} ; {text}", "negative prompt": negative})
        for text in words.negatives.values():
            refuse({"negative prompt": text})

    def models(self) -> tuple[str, ...]:
        """Name all checkpoints."""
        return (self.model, *self.parts.names)

    def run(self, work: Work) -> Facts:
        """Plan once, then draw whatever is not drawn yet.

        Raises:
            InputError: A category is unknown, or what is asked for is never generated.
        """
        parts, called = self.parts.placed(work.artifact)
        parts.refuse(self.model)
        plan = self._kept_plan(work)
        rows = json.dumps([vars(request) for request in plan.requests])
        taught = [models.digest(folder) for folder in called]
        key = fingerprint(self, str(work.seed), hashlib.sha256(rows.encode()).hexdigest(), *taught)
        done = work.added(key)
        began = time.monotonic()
        maker = Maker(
            work,
            plan.requests,
            key,
            model=self.model,
            parts=parts,
            drawing=self.drawing,
            memory=self.memory,
            pasting=self.pasting,
            files=self.files,
            licence=self.licence,
            called=called,
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
            "left_out": plan.left_out,
            **{
                f"by_{what}": {v: n for (w, v), n in sorted(made.items()) if w == what}
                for what in ("category", "style", "method")
            },
            "failures": dict(Counter(reason.partition(": ")[2] for _, reason in failures)),
            "real_images": plan.real,
            "generated_before": plan.made,
            "prompts_shortened": plan.shortened,
            "parents_refused": plan.refused,
            "from_words_for_want_of_parents": plan.orphans,
            "seconds_per_image": round(seconds / drawn, 3) if drawn else None,
            "drawn_at_once": maker.at_once,
        }

    def _kept_plan(self, work: Work) -> Plan:
        """Return the plan; it is kept in the step's folder, so that a killed run goes on with the same one."""
        path = work.folder / "plan.json"
        if path.exists():
            return Plan.read(path.read_text())
        plan = self.plan(work)
        for name, reason in plan.left_out.items():
            told = f"  {name} is left out: {reason} is never generated"
            work.events.emit("left_out", step=work.name, category=name, message=told)
        if plan.capped:
            work.events.emit(
                "capped", step=work.name, wanted=plan.wanted, planned=len(plan.requests), message=f"  {plan.capped}"
            )
        work.folder.mkdir(parents=True, exist_ok=True)
        write_beside(path, plan.text())
        return plan

    def plan(self, work: Work) -> Plan:
        """Look at the dataset and decide what to draw, from which words; of the model, its tokenizers alone are loaded.

        Raises:
            InputError: A category is unknown, or nothing is left that may be generated.
        """
        return Planner(
            work,
            {name: work.policy[name] for name in self._chosen(work.policy)},
            left_out=self.left_out(work.policy),
            words=self.words,
            drawing=self.drawing,
            parts=self.parts,
            methods=self.methods,
            pasting=self.pasting,
            encoders=encoders(self.model) if models.is_here(self.model) else [],
            again=self.again,
        ).plan(self.styles, count=self.count, per_category=self.per_category, max_ratio=self.max_ratio)

    def left_out(self, policy: Policy) -> dict[str, str]:
        """Say which of the policy's categories would be generated and never are, and why.

        Raises:
            InputError: The settings name a category that the policy does not have, none is left, or one has no look-alike that edited
                pairs need.
        """
        chosen = self._chosen(policy)
        never = {name: found.reason for name in chosen if (found := self._examined(policy[name])) is not None}
        if chosen and len(never) == len(chosen):
            reasons = " and ".join(dict.fromkeys(never.values()))
            raise InputError(f"no category is left to generate: {reasons} is never generated, and no setting allows it")
        if drawn_in_pairs(self.methods):
            look_alikes(self.words, [policy[name] for name in chosen if name not in never])
        return never

    def _examined(self, category: Category) -> Finding | None:
        words = self.words
        return examine_category(category, (*words.things.get(category.name, ()), *words.prompts.get(category.name, ())))

    def _chosen(self, policy: Policy) -> tuple[str, ...]:
        policy.check_pictured((*self.categories, *self.words.named), "generate")
        # One of low severity is a signpost on the way to a verdict, such as any board with writing: nothing to collect.
        return self.categories or tuple(c.name for c in policy.pictured if c.severity != "low")
