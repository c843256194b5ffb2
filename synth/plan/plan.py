"""A plan: what will be made, from what it was decided, kept as JSON and shown to a person."""

import json
from collections import Counter
from dataclasses import dataclass, field

from tilth.synth.plan.prompts import Request

SHOWN = 20  # prompts


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be made, and from what it was decided.

    Args:
        requests: One an image, in the order in which they are drawn.
        wanted: Images asked for.
        room: Images that `max_ratio` leaves room for, of those.
        real: Real, labelled training images that were counted.
        made: Generated images that were there.
        max_ratio: Most generated images for one real one.
        there: Category, style and the images there are of both; an empty style stands for those of unknown style.
        left_out: Categories that are never generated, with the reason.
        refused: Parents whose own words forbid their use.
        orphans: Images made from words alone for want of a parent.
        shortened: Prompts that a part was left out of, so that the model reads them to their end.
    """

    requests: list[Request]
    wanted: int
    real: int
    made: int
    max_ratio: float = 1.0
    there: list[tuple[str, str, int]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    orphans: int = 0
    shortened: int = 0
    room: int = 0

    @property
    def capped(self) -> str:
        """Why fewer are planned than were asked for; empty when there is room for all."""
        if self.room >= self.wanted:
            return ""
        before = f", {self.made} of them there" if self.made else ""
        return f"{len(self.requests)} of {self.wanted} images: max_ratio {self.max_ratio:g} of {self.real} real ones{before}"

    def text(self) -> str:
        """Write it as JSON."""
        return json.dumps({**vars(self), "requests": [vars(request) for request in self.requests]})

    @classmethod
    def read(cls, text: str) -> "Plan":
        """Read what `text` wrote."""
        kept = json.loads(text)
        return cls(**{"room": kept["wanted"], **kept, "requests": [Request(**row) for row in kept["requests"]]})

    def shown(self) -> str:
        """Write it for a person: what is there and what will be drawn, and some of the prompts."""
        lines = [
            self.capped
            or f"{len(self.requests)} images, beside {self.real} real ones and {self.made} that were generated before"
        ]
        cells = Counter((request.category, request.style) for request in self.requests)
        there = {(category, style): n for category, style, n in self.there}
        lines += ["", f"  {'category':24} {'style':20} {'there':>7} {'to draw':>8}"]
        for category, style in dict.fromkeys([*there, *cells]):
            row = there.get((category, style), 0), cells[category, style]
            lines.append(f"  {category:24} {style or 'unknown':20} {row[0]:>7,} {row[1]:>8,}")
        methods = Counter(request.method for request in self.requests)
        lines += ["", "  " + ", ".join(f"{n:,} by {method}" for method, n in methods.most_common())] if methods else []
        lines += [f"  {name} is left out: {reason} is never generated" for name, reason in self.left_out.items()]
        if self.shortened:
            lines.append(f"  {self.shortened:,} prompts are shortened, as the model would not read all of them")
        chosen = sorted(self.requests, key=lambda request: request.number)
        chosen = chosen[:: max(1, len(chosen) // SHOWN)][:SHOWN]
        lines += ["", f"  {len(chosen)} of {len(self.requests):,} prompts"] if chosen else []
        for request in chosen:
            without = f"; not: {request.negative}" if request.negative else ""
            said = request.prompt or "cut out of a real image"
            lines.append(f"  {request.number:>6}  {request.category:16} {request.method:8} {said}{without}")
        return "\n".join(lines)
