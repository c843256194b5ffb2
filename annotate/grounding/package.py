"""The package `groundingdino-py`, fed from a `save_pretrained` folder: the second backend of `ground`.

Implementation followed: transformers' own `GroundingDino*` modules, whose parameter names are turned into the package's.
Adapted, because the package was last changed for transformers 4 and for one shape of model:

- Its `BertModelWarper` calls `get_extended_attention_mask` and `get_head_mask`, which transformers 5 took away. `_reader`
  takes its place while the model is built; no module stays changed.
- Its builder downloads a tokenizer and reads pickles. Here both come from the folder, and weights are safetensors only.
- It computes positions for a width of 256. Widths that divide 256 use every k-th of the same frequencies, so a narrower
  model is the same network with columns left out.
- It knows Swin and ResNet. Any other backbone is the one of transformers, behind the package's interface.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tilth.annotate.grounding.ports import Text, load_port
from tilth.errors import ModelError
from tilth.extras import optional

if TYPE_CHECKING:
    import torch

WIDTH = 256  # that the package's positions are made for

Renames = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

# transformers' parameter names -> the package's, in this order; "#n" marks the n-th part of a joined matrix
RENAMES: Renames = (
    (r"^model\.", ""),
    (r"^(level_embed$|enc_output\.|enc_output_norm\.)", r"transformer.\1"),
    (r"^input_proj_vision\.", "input_proj."),
    (r"^text_backbone\.", "bert."),
    (r"^text_projection\.", "feat_map."),
    (r"^query_position_embeddings\.", "transformer.tgt_embed."),
    (r"^encoder_output_bbox_embed\.", "transformer.enc_out_bbox_embed."),
    (r"^decoder\.reference_points_head\.", "transformer.decoder.ref_point_head."),
    (r"^decoder\.layer_norm\.", "transformer.decoder.norm."),
    (r"^decoder\.bbox_embed\.", "transformer.decoder.bbox_embed."),
    (r"^encoder\.layers\.(\d+)\.text_enhancer_layer\.", r"transformer.encoder.text_layers.\1."),
    (r"(text_layers\.\d+)\.layer_norm_before\.", r"\1.norm1."),
    (r"(text_layers\.\d+)\.layer_norm_after\.", r"\1.norm2."),
    (r"^encoder\.layers\.(\d+)\.fusion_layer\.", r"transformer.encoder.fusion_layers.\1."),
    (r"(fusion_layers\.\d+)\.vision_param$", r"\1.gamma_v"),
    (r"(fusion_layers\.\d+)\.text_param$", r"\1.gamma_l"),
    (r"(fusion_layers\.\d+)\.layer_norm_(v|t)\w+\.", lambda m: f"{m[1]}.layer_norm_{m[2].replace('t', 'l')}."),
    (r"(fusion_layers.*?)(vision|text)_proj\.", lambda m: f"{m[1]}{'v' if m[2] == 'vision' else 'l'}_proj."),
    (r"^encoder\.layers\.(\d+)\.deformable_layer\.", r"transformer.encoder.layers.\1."),
    (r"(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"(encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"^decoder\.layers\.", "transformer.decoder.layers."),
    (r"(decoder\.layers\.\d+)\.encoder_attn_layer_norm\.", r"\1.norm1."),
    (r"(decoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm2."),
    (r"(decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm3."),
    (r"(decoder\.layers\.\d+)\.encoder_attn_text_layer_norm\.", r"\1.catext_norm."),
    (r"(decoder\.layers\.\d+)\.encoder_attn_text\.", r"\1.ca_text."),
    (r"(decoder\.layers\.\d+)\.encoder_attn\.", r"\1.cross_attn."),
    (r"((?:text_layers|encoder\.layers|decoder\.layers)\.\d+)\.fc(\d)\.", r"\1.linear\2."),
    (r"((?:text_layers|decoder\.layers)\..*?\.)query\.(\w+)$", r"\1in_proj_\2#0"),
    (r"((?:text_layers|decoder\.layers)\..*?\.)key\.(\w+)$", r"\1in_proj_\2#1"),
    (r"((?:text_layers|decoder\.layers)\..*?\.)value\.(\w+)$", r"\1in_proj_\2#2"),
)
SWIN_RENAMES: Renames = (
    (r"^(?:swin\.)?embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:swin\.)?embeddings\.norm\.", "patch_embed.norm."),
    (r"^(?:swin\.)?encoder\.layers\.", "layers."),
    (r"\.attention\.(?:self\.)?(?:query|q_proj)\.(\w+)$", r".attn.qkv.\1#0"),
    (r"\.attention\.(?:self\.)?(?:key|k_proj)\.(\w+)$", r".attn.qkv.\1#1"),
    (r"\.attention\.(?:self\.)?(?:value|v_proj)\.(\w+)$", r".attn.qkv.\1#2"),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (
        r"\.attention\.(?:self|relative_position_bias)\.relative_position_bias_table$",
        ".attn.relative_position_bias_table",
    ),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.(?:intermediate\.dense|mlp\.fc1)\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.(?:output\.dense|mlp\.fc2)\.", r"\1.mlp.fc2."),
    (r"^hidden_states_norms\.stage(\d)\.", lambda m: f"norm{int(m[1]) - 1}."),
)


class PackageNetwork:
    """The network, from pixels and one text to token scores and boxes; see `PortNetwork`."""

    def __init__(self, folder: Path, name: str, device: str) -> None:
        with optional():
            import groundingdino  # noqa: F401
            from transformers import AutoTokenizer
        port, tokenizer = load_port(folder, name), AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = build(port, tokenizer, name).to(device)

    def __call__(self, pixels: "torch.Tensor", text: Text) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return token logits and boxes."""
        output = self._model(pixels, captions=[text.caption] * len(pixels))
        return output["pred_logits"], output["pred_boxes"]


def build(port: Any, tokenizer: Any, name: str) -> Any:
    """Make the package's model with the weights of transformers' one.

    Args:
        port: A `GroundingDinoForObjectDetection`.
        tokenizer: Its tokenizer.
        name: Of the model, for errors.

    Raises:
        ModelError: The package has no such network.
    """
    from groundingdino.models.GroundingDINO import groundingdino as package
    from groundingdino.models.GroundingDINO.transformer import build_transformer

    config = port.config
    _check(config, name)
    arguments = _arguments(config)
    transformer = build_transformer(arguments)
    step = WIDTH // config.d_model
    if step > 1:
        _narrow(transformer, config.d_model, step)
    with _replaced(package, BertModelWarper=_reader(), get_tokenlizer=_given(tokenizer, port.model.text_backbone)):
        model = package.GroundingDINO(
            _backbone(port.model.backbone.conv_encoder, arguments),
            transformer,
            num_queries=config.num_queries,
            iter_update=True,
            query_dim=4,
            num_feature_levels=config.num_feature_levels,
            nheads=config.encoder_attention_heads,
            dec_pred_bbox_embed_share=config.decoder_bbox_embed_share,
            two_stage_type="standard",
            two_stage_bbox_embed_share=config.two_stage_bbox_embed_share,
            two_stage_class_embed_share=False,
            text_encoder_type="",
        )
    missing, unexpected = model.load_state_dict(package_state(port, step), strict=False)
    missing = [key for key in missing if not key.endswith("relative_position_index")]
    if missing or unexpected:
        raise ModelError(f"{name}: groundingdino-py lacks {unexpected[:3]} and wants {missing[:3]}; use transformers")
    return model.eval()


def _check(config: Any, name: str) -> None:
    """Refuse what the package cannot be.

    Raises:
        ModelError: It cannot.
    """
    wanted = {
        "model_type": (config.model_type, "grounding-dino"),
        "d_model": (WIDTH % config.d_model, 0),
        "two_stage": (config.two_stage, True),
        "embedding_init_target": (config.embedding_init_target, True),
        "position_embedding_type": (config.position_embedding_type, "sine"),
        "decoder_attention_heads": (config.decoder_attention_heads, config.encoder_attention_heads),
        "decoder_ffn_dim": (config.decoder_ffn_dim, config.encoder_ffn_dim),
    }
    for setting, (value, only) in wanted.items():
        if value != only:
            raise ModelError(
                f"{name}: groundingdino-py has no model with {setting} {getattr(config, setting)!r}; "
                "use the backend transformers"
            )


def _arguments(config: Any) -> SimpleNamespace:
    """Say a configuration in the package's words."""
    return SimpleNamespace(
        hidden_dim=config.d_model,
        position_embedding="sine",
        pe_temperatureH=config.positional_embedding_temperature,
        pe_temperatureW=config.positional_embedding_temperature,
        dropout=0.0,
        nheads=config.encoder_attention_heads,
        num_queries=config.num_queries,
        dim_feedforward=config.encoder_ffn_dim,
        enc_layers=config.encoder_layers,
        dec_layers=config.decoder_layers,
        pre_norm=False,
        query_dim=4,
        transformer_activation=config.activation_function,
        num_patterns=0,
        num_feature_levels=config.num_feature_levels,
        enc_n_points=config.encoder_n_points,
        dec_n_points=config.decoder_n_points,
        two_stage_type="standard",
        embed_init_tgt=True,
        use_text_enhancer=True,
        use_fusion_layer=True,
        use_checkpoint=False,
        use_transformer_ckpt=False,
        use_text_cross_attention=True,
        text_dropout=0.0,
        fusion_dropout=0.0,
        fusion_droppath=0.0,
    )


@contextmanager
def _replaced(module: Any, **names: Any) -> Iterator[None]:
    """Let a module see other things under these names for a while."""
    before = {name: getattr(module, name) for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(before)


def _given(tokenizer: Any, encoder: Any) -> SimpleNamespace:
    """Stand in for the package's module that downloads a tokenizer and a text encoder."""
    if encoder.pooler is None:  # the package freezes it, and never uses it
        from transformers.models.bert.modeling_bert import BertPooler

        encoder.pooler = BertPooler(encoder.config)
    return SimpleNamespace(
        get_tokenlizer=lambda _: tokenizer,
        get_pretrained_language_model=lambda _: encoder,
    )


def _reader() -> Any:
    """Return what takes the place of the package's wrapper around BERT: one mask a pair of tokens, given positions."""
    import torch

    class Reader(torch.nn.Module):
        def __init__(self, bert_model: Any) -> None:
            super().__init__()
            self.config = bert_model.config
            self.embeddings, self.encoder = bert_model.embeddings, bert_model.encoder

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any, position_ids: Any) -> Any:
            words = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids, position_ids=position_ids)
            closed = torch.zeros_like(attention_mask, dtype=words.dtype)
            closed = closed.masked_fill(~attention_mask, torch.finfo(words.dtype).min)[:, None]
            return {"last_hidden_state": self.encoder(words, attention_mask=closed)[0]}

    return Reader


def _backbone(encoder: Any, arguments: SimpleNamespace) -> Any:
    """Return the package's Swin, or transformers' backbone behind the package's interface, with positions."""
    import torch
    from groundingdino.models.GroundingDINO.backbone.backbone import Joiner
    from groundingdino.models.GroundingDINO.backbone.position_encoding import build_position_encoding
    from groundingdino.models.GroundingDINO.backbone.swin_transformer import SwinTransformer
    from groundingdino.util.misc import NestedTensor

    class Ported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = encoder.model

        def forward(self, batch: Any) -> dict[int, Any]:
            maps = self.body(batch.tensors).feature_maps
            masks = [
                torch.nn.functional.interpolate(batch.mask[None].float(), size=one.shape[-2:]).bool()[0] for one in maps
            ]
            return {n: NestedTensor(one, mask) for n, (one, mask) in enumerate(zip(maps, masks, strict=True))}

    config = encoder.model.config
    body: Any = Ported()
    if config.model_type == "swin":
        body = SwinTransformer(
            pretrain_img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.embed_dim,
            depths=config.depths,
            num_heads=config.num_heads,
            window_size=config.window_size,
            mlp_ratio=config.mlp_ratio,
            qkv_bias=config.qkv_bias,
            drop_path_rate=0.0,
            out_indices=tuple(index - 1 for index in config.out_indices),
        )
    joined = Joiner(body, build_position_encoding(arguments))
    joined.num_channels = list(encoder.intermediate_channel_sizes)
    return joined


def _narrow(transformer: Any, width: int, step: int) -> None:
    """Make a transformer of less than 256 columns read the package's 256-wide positions."""
    from groundingdino.models.GroundingDINO.utils import MLP

    kept = _columns(WIDTH, step)
    for layer in transformer.encoder.text_layers:
        layer.with_pos_embed = lambda tensor, position: tensor + position[..., kept]
    transformer.decoder.ref_point_head = MLP(2 * WIDTH, width, width, 2)


def _columns(width: int, step: int) -> list[int]:
    """Return the columns of every `step`-th frequency; each has a sine and a cosine.

    >>> _columns(8, 2)
    [0, 1, 4, 5]
    """
    return [2 * pair + part for pair in range(0, width // 2, step) for part in (0, 1)]


def package_state(port: Any, step: int) -> "dict[str, torch.Tensor]":
    """Return the weights of transformers' model under the package's names."""
    import torch

    swin = port.model.backbone.conv_encoder.model.config.model_type == "swin"
    joined: dict[str, dict[int, torch.Tensor]] = defaultdict(dict)
    for key, value in port.state_dict().items():
        name, _, part = _renamed(key, swin).partition("#")
        joined[name][int(part or 0)] = value
    state = {name: torch.cat([parts[n] for n in sorted(parts)]) for name, parts in joined.items() if name}
    for name in [name for name in state if name.startswith("transformer.decoder.bbox_embed.")]:
        state[name.removeprefix("transformer.decoder.")] = state[name]
    if step > 1:
        first = "transformer.decoder.ref_point_head.layers.0.weight"
        wide = torch.zeros(len(state[first]), 2 * WIDTH)
        per_side = WIDTH // 2
        wide[:, [side * per_side + c for side in range(4) for c in _columns(per_side, step)]] = state[first]
        state[first] = wide
    return state


def _renamed(key: str, swin: bool) -> str:
    """Return the package's name of a parameter; empty for one that it does without."""
    place = "model.backbone.conv_encoder.model."
    if key.startswith(place):
        if not swin:
            return "backbone.0.body." + key.removeprefix(place)
        name = _apply(SWIN_RENAMES, key.removeprefix(place))
        return "" if re.match(r"(swin\.)?layernorm\.", name) else f"backbone.0.{name}"
    return "" if key.startswith("model.text_backbone.pooler.") else _apply(RENAMES, key)


def _apply(renames: Renames, key: str) -> str:
    for pattern, name in renames:
        key = re.sub(pattern, name, key)
    return key
