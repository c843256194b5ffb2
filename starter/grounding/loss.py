"""The training loss of the miniature GroundingDINO: every decoder layer and the proposals answer for boxes and tokens.

Paper: https://arxiv.org/abs/2303.05499 (section 3.5).
Differs: from the loss in transformers 5.23. It looks labels up per image instead of with offsets that are wrong from
the third image on, lets one box answer to several phrases, and trains the proposals, whose coordinates get detached
there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GroundingDinoConfig
from transformers.loss.loss_grounding_dino import GroundingDinoHungarianMatcher, GroundingDinoImageLoss
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoForObjectDetection,
    GroundingDinoObjectDetectionOutput,
    build_text_mask,
)

_CLASS_WEIGHT = 6.0  # instead of 2: boxes are easy in this world, and telling a spoon from a knife is not

Target = dict[str, torch.Tensor]


class _TokenLoss(GroundingDinoImageLoss):  # type: ignore[misc]
    """Takes `label_maps` as one row `(tokens,)` a box rather than one a phrase."""

    def _get_target_classes_one_hot(
        self, outputs: dict[str, Any], targets: list[Target], indices: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        logits: torch.Tensor = outputs["logits"]
        wanted = torch.zeros_like(logits)
        chosen = [tokens[boxes] for tokens, (_, boxes) in zip(outputs["label_maps"], indices, strict=True)]
        wanted[self._get_source_permutation_idx(indices)] = torch.cat(chosen).to(logits.dtype)
        return wanted


def target(boxes_cxcywh: torch.Tensor, tokens: torch.Tensor) -> Target:
    """Say the truth of one image: boxes `(n, 4)` in parts of it, and the tokens `(n, max_text_len)` that name each."""
    return {
        "boxes": boxes_cxcywh,
        "tokens": tokens,
        "class_labels": torch.arange(len(boxes_cxcywh), device=tokens.device),
    }


def grounding_loss(
    model: GroundingDinoForObjectDetection,
    output: GroundingDinoObjectDetectionOutput,
    attention_mask: torch.Tensor,
    targets: Sequence[Target],
) -> torch.Tensor:
    """Sum the losses of all decoder layers and of the proposals, for a batch with `targets` from `target`."""
    config: GroundingDinoConfig = model.config
    matcher = GroundingDinoHungarianMatcher(
        class_cost=config.class_cost, bbox_cost=config.bbox_cost, giou_cost=config.giou_cost
    )
    criterion = _TokenLoss(matcher, config.focal_alpha, ["labels", "boxes"])
    answers = [(output.enc_outputs_class, output.enc_outputs_coord_logits.float().sigmoid())]
    answers += [_decoded(model, output, attention_mask, layer) for layer in range(config.decoder_layers)]
    total = torch.zeros((), device=attention_mask.device)
    for logits, boxes in answers:
        asked = {
            "logits": logits.float(),
            "pred_boxes": boxes.float(),
            "label_maps": tuple(t["tokens"] for t in targets),
            "text_mask": build_text_mask(logits, attention_mask),
        }
        parts = criterion(asked, list(targets))
        total = total + _CLASS_WEIGHT * parts["loss_ce"]
        total = (
            total
            + config.bbox_loss_coefficient * parts["loss_bbox"]
            + config.giou_loss_coefficient * parts["loss_giou"]
        )
    return total


def _decoded(
    model: GroundingDinoForObjectDetection,
    output: GroundingDinoObjectDetectionOutput,
    attention_mask: torch.Tensor,
    layer: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read token logits and boxes off a decoder layer, the way the model's forward pass does."""
    states = output.intermediate_hidden_states[:, layer]
    before = output.init_reference_points if layer == 0 else output.intermediate_reference_points[:, layer - 1]
    logits = model.class_embed[layer](
        vision_hidden_state=states,
        text_hidden_state=output.encoder_last_hidden_state_text,
        text_token_mask=attention_mask.bool(),
    )
    return logits, (model.bbox_embed[layer](states).float() + torch.special.logit(before.float(), eps=1e-5)).sigmoid()
