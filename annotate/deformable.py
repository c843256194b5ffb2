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
    xs: "torch.Tensor",
    ys: "torch.Tensor",
    attention: "torch.Tensor",
) -> "torch.Tensor":
    """Return the attended values of each query, `(n, queries, heads * width)`.

    Args:
        values: Of all places of all levels, `(n, places, heads, width)`.
        shapes: Height and width of each level.
        xs: Where each point samples, in places of its level, 0 at the middle of the first, `(n, queries, heads, levels, points)`.
        ys: Likewise, downwards.
        attention: Weight of each point, shaped likewise.
    """
    import torch

    n, total, heads, width = values.shape
    queries, on = xs.shape[1], xs.device
    starts = torch.tensor([0, *(h * w for h, w in shapes[:-1])], device=on).cumsum(0)[:, None]
    row_of_image = (torch.arange(n, device=on) * total)[:, None, None, None, None]
    first = ((row_of_image + starts) * heads + torch.arange(heads, device=on)[:, None, None]).to(torch.int32)
    places, shares = [], []
    for at, sides in ((xs, [w for _, w in shapes]), (ys, [h for h, _ in shapes])):
        last = torch.tensor(sides, dtype=at.dtype, device=on)[:, None] - 1
        low = at.floor()
        high = low + 1
        near, far = (side.clamp(min=0).minimum(last) for side in (low, high))
        # what lies outside counts for nothing
        places.append([near.to(torch.int32), far.to(torch.int32)])
        shares.append([(high - at) * (near == low), (at - low) * (far == high)])
    x, across = [side * heads for side in places[0]], shares[0]
    stride = torch.tensor([w * heads for _, w in shapes], dtype=torch.int32, device=on)[:, None]
    y, down = [torch.addcmul(first, side, stride) for side in places[1]], [attention * share for share in shares[1]]
    bags = torch.stack([line + place for line in y for place in x], 3).view(n * queries * heads, -1)
    weights = torch.stack([part * share for part in down for share in across], 3).view(bags.shape)
    return torch.nn.functional.embedding_bag(
        bags,
        values.reshape(-1, width),
        offsets=None,
        per_sample_weights=weights.to(values.dtype),
        mode="sum",
    ).view(n, queries, heads * width)


class Gather:
    """Takes the place of `forward` in transformers' module of deformable attention, with the module's own weights."""

    def __init__(self, module: Any) -> None:
        import torch

        self._module = module
        self._by_point = (module.n_heads, module.n_levels, module.n_points)
        offsets = module.sampling_offsets
        x_then_y = torch.arange(offsets.out_features).view(-1, 2).T.flatten()
        self._weight, self._bias = offsets.weight[x_then_y].detach(), offsets.bias[x_then_y].detach()

    def __call__(
        self,
        hidden_states: "torch.Tensor",
        attention_mask: "torch.Tensor | None" = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        position_embeddings: "torch.Tensor | None" = None,
        reference_points: Any = None,
        spatial_shapes: Any = None,
        spatial_shapes_list: Any = None,
        level_start_index: Any = None,
        output_attentions: bool = False,
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        import torch

        module, (heads, levels, points) = self._module, self._by_point
        asking = hidden_states if position_embeddings is None else hidden_states + position_embeddings
        n, queries, _ = asking.shape
        values = module.value_proj(encoder_hidden_states)
        if attention_mask is not None and not attention_mask.all():
            values = values.masked_fill(~attention_mask[..., None], 0.0)
        shapes = [(int(h), int(w)) for h, w in spatial_shapes_list]
        moved = torch.nn.functional.linear(asking, self._weight, self._bias).view(n, queries, 2, *self._by_point)
        at = []
        for axis in (0, 1):
            size = asking.new_tensor([shape[1 - axis] for shape in shapes])
            middle, offset = reference_points[..., axis] * size - 0.5, moved[:, :, axis]
            if reference_points.shape[-1] == 4:  # a box: points lie in parts of its sides
                offset = offset * (reference_points[..., 2 + axis] * size * (0.5 / points))[:, :, None, :, None]
            at.append(middle[:, :, None, :, None] + offset)
        # torch's softmax takes five times as long over so few
        logits = module.attention_weights(asking).view(n, queries, heads, levels * points).float()
        powers = (logits - logits.amax(3, keepdim=True)).exp()
        attention = (powers / powers.sum(3, keepdim=True)).view(n, queries, *self._by_point)
        values = values.view(n, -1, heads, module.d_model // heads)
        return module.output_proj(attend(values, shapes, at[0], at[1], attention)), attention


def use_gather(model: Any) -> None:
    """Let a model of the GroundingDINO family in transformers attend in this way; its weights must not change afterwards."""
    for module in model.modules():
        if type(module).__name__.endswith("MultiscaleDeformableAttention"):
            module.forward = Gather(module)
