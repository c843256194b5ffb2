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
    queries, on = places.shape[1], places.device
    size = torch.tensor(shapes, dtype=places.dtype, device=on).flip(1).T[:, :, None]  # (xy, levels, 1)
    starts = torch.tensor([0, *(h * w for h, w in shapes[:-1])], device=on).cumsum(0)[:, None]
    row_of_image = (torch.arange(n, device=on) * total)[:, None, None, None, None]
    first = ((row_of_image + starts) * heads + torch.arange(heads, device=on)[:, None, None]).to(torch.int32)
    columns, shares = [], []
    for axis in (0, 1):
        at = torch.addcmul(places.new_tensor(-0.5), places[..., axis], size[axis])
        low = at.floor()
        high = low + 1
        near, far = (side.clamp(min=0).minimum(size[axis] - 1) for side in (low, high))
        # what lies outside counts for nothing
        columns.append([near.to(torch.int32), far.to(torch.int32)])
        shares.append([(high - at) * (near == low), (at - low) * (far == high)])
    x, across = [side * heads for side in columns[0]], shares[0]
    stride = (size[0] * heads).to(torch.int32)
    y, down = [torch.addcmul(first, side, stride) for side in columns[1]], [attention * share for share in shares[1]]
    bags = torch.stack([line + place for line in y for place in x], 3).view(n * queries * heads, -1)
    weights = torch.stack([part * share for part in down for share in across], 3).view(bags.shape)
    return torch.nn.functional.embedding_bag(
        bags,
        values.reshape(-1, width),
        offsets=None,
        per_sample_weights=weights.to(values.dtype),
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
