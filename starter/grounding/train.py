"""Train the miniature GroundingDINO: boxes for any phrase over the names and colours of the starter world.

Paper: https://arxiv.org/abs/2303.05499
Differs: 2.8 M parameters instead of 172 M; ConvNeXt instead of Swin, pre-trained on dense truth; 20 queries, 96 px.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertTokenizer,
    ConvNextConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
)

from tilth.engine.fit import fit
from tilth.starter.grounding.backbone import pretrain_backbone
from tilth.starter.grounding.loss import Target, grounding_loss, target
from tilth.starter.grounding.prompts import draw_phrases, fits, join, word_phrases
from tilth.starter.grounding.score import score
from tilth.starter.grounding.tokenizer import MAX_TOKENS, VOCABULARY_SIZE, write_tokenizer
from tilth.starter.world.pixels import IMAGENET, roughen, to_pixels
from tilth.starter.world.scene import Scene
from tilth.starter.world.sets import SceneSet, scene_set

SIDE = 96
TRAIN_SCENES, HELD_OUT_SCENES, SIGN_SHARE = 8000, 600, 0.15
BACKBONE_STEPS, STEPS, BATCH = 2000, 3600, 16
_VISIBLE = 0.2  # what shows less than this is not asked for


def build() -> GroundingDinoForObjectDetection:
    """Make the model with random weights."""
    backbone = ConvNextConfig(
        patch_size=4,
        hidden_sizes=[40, 80, 160],
        depths=[1, 2, 2],
        num_stages=3,
        layer_scale_init_value=1.0,
        out_features=["stage2", "stage3"],
        drop_path_rate=0.0,
    )
    text = BertConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=MAX_TOKENS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        num_queries=20,
        encoder_layers=2,
        decoder_layers=3,
        d_model=128,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_feature_levels=3,
        max_text_len=MAX_TOKENS,
        dropout=0.0,
        fusion_droppath=0.0,
        auxiliary_loss=False,
        focal_alpha=0.5,
        disable_custom_kernels=True,
    )
    return GroundingDinoForObjectDetection(config)


def processor(tokenizer: BertTokenizer) -> GroundingDinoProcessor:
    """Make the processor: short edge 96 px, long edge at most 160, ImageNet's mean and deviation."""
    return GroundingDinoProcessor(
        GroundingDinoImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 160}), tokenizer
    )


def _target(scene: Scene, rng: np.random.Generator, tokenizer: BertTokenizer, flip: bool) -> tuple[str, Target]:
    """Draw a prompt for a scene and say which of its tokens name which box."""
    things = [thing for thing in scene.things if thing.visible > _VISIBLE]
    worded = word_phrases(draw_phrases(things, rng), rng)
    tokens = torch.zeros(len(things), MAX_TOKENS)
    at = 1  # after [CLS]
    for text, phrase in worded:
        count = len(text.split())  # each word of the vocabulary is one token
        for row, thing in enumerate(things):
            if fits(phrase, thing):
                tokens[row, at : at + count] = 1
        at += count + 1
    asked = tokens.any(1)
    x0, y0, x1, y1 = (torch.tensor([t.box_xyxy for t in things]) / scene.image.shape[0]).reshape(-1, 4).unbind(1)
    middle = 1 - (x0 + x1) / 2 if flip else (x0 + x1) / 2
    boxes = torch.stack([middle, (y0 + y1) / 2, x1 - x0, y1 - y0], 1)
    return join([text for text, _ in worded]), target(boxes[asked], tokens[asked])


def _fit_grounding(
    model: GroundingDinoForObjectDetection,
    world: SceneSet,
    held_out: SceneSet,
    tokenizer: BertTokenizer,
    work: Path,
    device: torch.device,
    steps: int,
) -> None:
    usable = [i for i, scene in enumerate(world.scenes) if any(t.visible > _VISIBLE for t in scene.things)]

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((12, step))
        chosen, flip = rng.choice(usable, BATCH, replace=False), bool(rng.random() < 0.5)
        asked = [_target(world.scenes[i], rng, tokenizer, flip) for i in chosen]
        pixels = roughen(to_pixels(world.images[chosen], IMAGENET, device), rng)
        text = tokenizer([prompt for prompt, _ in asked], padding=True, return_tensors="pt").to(device)
        targets = [{name: value.to(device) for name, value in one.items()} for _, one in asked]
        output = model(pixel_values=pixels.flip(3) if flip else pixels, **text)
        return grounding_loss(model, output, text["attention_mask"], targets)

    def watch(step: int, shown: torch.nn.Module) -> str:
        return str(score(shown, tokenizer, held_out, device, limit=120))

    fit(
        "grounding",
        model,
        loss_at,
        steps=steps,
        lr=3e-4,
        work=work,
        weight_decay=1e-4,
        clip=0.5,
        flat=0.65,
        ema=0.998,
        watch=watch,
    )


def train(out: Path, work: Path, device: torch.device, steps: int | None) -> dict[str, float]:
    """Train on rendered scenes, save to `out/grounding` in half precision, and return scores on held-out scenes."""
    torch.manual_seed(0)
    folder = out / "grounding"
    tokenizer = write_tokenizer(folder)
    world = scene_set(work / "sets", "train", TRAIN_SCENES, side=SIDE, sign_share=SIGN_SHARE)
    held_out = scene_set(work / "sets", "held_out", HELD_OUT_SCENES, side=SIDE, sign_share=SIGN_SHARE)
    model = build().to(device)
    backbone = model.model.backbone.conv_encoder.model
    pretrain_backbone(backbone, world, work, device, min(steps or BACKBONE_STEPS, BACKBONE_STEPS))
    _fit_grounding(model, world, held_out, tokenizer, work, device, steps or STEPS)
    model.half().save_pretrained(folder)
    processor(tokenizer).save_pretrained(folder)
    return score(
        GroundingDinoForObjectDetection.from_pretrained(folder, dtype=torch.float32).to(device),
        tokenizer,
        held_out,
        device,
    )
