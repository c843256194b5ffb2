"""Deformable attention as one weighted gather: for CPUs, where sampling level by level mostly moves memory.

Paper: https://arxiv.org/abs/2010.04159 (section 4.1)
Differs: the four neighbours of every sampling point become four rows of one table of values, and bilinear weight times
attention becomes the weight of a row, so that a query is one weighted sum of rows: torch's `embedding_bag`.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
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

    n, _, heads, width = values.shape
    queries, on = xs.shape[1], xs.device

    def by_level(numbers: Iterable[int], kind: "torch.dtype") -> "torch.Tensor":
        return torch.tensor(list(numbers), dtype=kind, device=on)[:, None]

    # each level gets a border of nothing, one place before and two behind, so what samples outside needs no care
    sides = [(h + 3, w + 3) for h, w in shapes]
    starts = [0, *accumulate(h * w for h, w in sides)]
    table = values.new_zeros(n, starts[-1], heads * width)
    level_of = values.flatten(2).split([h * w for h, w in shapes], 1)
    for level, (h, w), start, (high, wide) in zip(level_of, shapes, starts, sides, strict=False):
        inside = table[:, start : start + high * wide].view(n, high, wide, -1)[:, 1 : h + 1, 1 : w + 1]
        inside.copy_(level.view(n, h, w, -1))
    x = xs.clamp(min=-1).minimum(by_level((w for _, w in shapes), xs.dtype))
    y = ys.clamp(min=-1).minimum(by_level((h for h, _ in shapes), ys.dtype))
    left, top = x.floor(), y.floor()
    right, below = x.sub_(left), y.sub_(top)  # shares of the far neighbours

    line = by_level((w * heads for _, w in sides), torch.int32)
    first = by_level(starts[:-1], torch.int32) * heads + line + heads + torch.arange(heads, device=on)[:, None, None]
    first = first + (torch.arange(n, device=on) * starts[-1] * heads)[:, None, None, None, None]
    place = torch.addcmul(first.to(torch.int32), top.to(torch.int32), line).add_(left.to(torch.int32), alpha=heads)
    bags = place.new_empty(n, queries, heads, 4, *place.shape[3:])
    weights = attention.new_empty(bags.shape)
    lower = attention * below
    for row, (line_of, share) in enumerate(((torch.zeros_like(line), attention - lower), (line, lower))):
        near, far = 2 * row, 2 * row + 1
        torch.add(place, line_of, out=bags[:, :, :, near])
        torch.add(place, line_of + heads, out=bags[:, :, :, far])
        torch.mul(share, right, out=weights[:, :, :, far])
        torch.sub(share, weights[:, :, :, far], out=weights[:, :, :, near])
    return torch.nn.functional.embedding_bag(
        bags.view(n * queries * heads, -1),
        table.view(-1, width),
        offsets=None,
        per_sample_weights=weights.view(n * queries * heads, -1).to(values.dtype),
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
