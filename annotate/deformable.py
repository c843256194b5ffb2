"""Deformable attention as one weighted gather: for CPUs, where sampling level by level mostly moves memory.

Paper: https://arxiv.org/abs/2010.04159 (section 4.1)
Differs: the four neighbours of every sampling point become four rows of one table of values, and bilinear weight times
attention becomes the weight of a row, so that a query is one weighted sum of rows: torch's `embedding_bag`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def attend(
    values: "torch.Tensor",
    shapes: Sequence[tuple[int, int]],
    places: "torch.Tensor",
    attention: "torch.Tensor",
) -> "torch.Tensor":
    """Return the attended values of each query, `(n, queries, heads * width)`.

    Args:
        values: Of all places of all levels, `(n, places, heads, width)`.
        shapes: Height and width of each level.
        places: Where each point samples, as x and y in parts of the level, `(n, queries, heads, levels, points, 2)`.
        attention: Weight of each point, `(n, queries, heads, levels, points)`.
    """
    import torch

    n, total, heads, width = values.shape
    queries = places.shape[1]
    kind, on = places.dtype, places.device
    size = torch.tensor([(w, h) for h, w in shapes], dtype=kind, device=on)[:, None]
    starts = torch.tensor([0, *(h * w for h, w in shapes[:-1])], device=on).cumsum(0)[:, None]
    row_of_image = (torch.arange(n, device=on) * total)[:, None, None, None, None]
    head = torch.arange(heads, device=on)[:, None, None]
    at = places * size - 0.5
    low = at.floor()
    share = (at - low).unbind(-1)
    (x, y), (last_x, last_y) = low.long().unbind(-1), (size.long() - 1).unbind(-1)
    rows, weights = [], []
    for dy, wy in ((0, 1 - share[1]), (1, share[1])):
        inside_y, row = (y + dy >= 0) & (y + dy <= last_y), (y + dy).clamp(min=0).minimum(last_y)
        line = row_of_image + starts + row * (last_x + 1)
        part = attention * wy * inside_y
        for dx, wx in ((0, 1 - share[0]), (1, share[0])):
            inside_x = (x + dx >= 0) & (x + dx <= last_x)
            rows.append((line + (x + dx).clamp(min=0).minimum(last_x)) * heads + head)
            weights.append(part * wx * inside_x)
    bags = torch.stack(rows, -1).view(n * queries * heads, -1)
    return torch.nn.functional.embedding_bag(
        bags,
        values.reshape(-1, width),
        per_sample_weights=torch.stack(weights, -1).view(bags.shape).to(values.dtype),
        mode="sum",
    ).view(n, queries, heads * width)


def use_gather(model: Any) -> None:
    """Let a model of the GroundingDINO family in transformers attend in this way."""
    import torch

    class Gather(torch.nn.Module):
        def forward(self, value: Any, _: Any, shapes: Any, __: Any, places: Any, attention: Any, ___: Any) -> Any:
            return attend(value, [(int(h), int(w)) for h, w in shapes], places, attention)

    for module in model.modules():
        if type(module).__name__.endswith("MultiscaleDeformableAttention"):
            module.attn = Gather()
