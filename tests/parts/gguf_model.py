"""The starter's verdict model as llama.cpp reads it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tilth import models

NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def rotated(weight: np.ndarray, heads: int) -> np.ndarray:
    """Order the rows of queries and keys as llama.cpp turns them: pairs side by side, not in halves."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def gguf_model(folder: Path) -> Path:
    """Write a folder with `model.gguf` and the tokenizer that belongs to it."""
    import gguf

    own = models.locate("starter:verdict")
    config = models.settings("starter:verdict")
    number = lambda key: int(str(config[key]))  # noqa: E731
    folder.mkdir()
    for name in ("tokenizer.json", "verdict.json"):
        shutil.copy(own / name, folder)
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    heads = number("num_attention_heads")
    writer.add_context_length(number("max_position_embeddings"))
    writer.add_embedding_length(number("hidden_size"))
    writer.add_block_count(number("num_hidden_layers"))
    writer.add_feed_forward_length(number("intermediate_size"))
    writer.add_head_count(heads)
    writer.add_head_count_kv(number("num_key_value_heads"))
    writer.add_key_length(number("head_dim"))
    writer.add_value_length(number("head_dim"))
    writer.add_rope_dimension_count(number("head_dim"))
    rope: Any = config["rope_parameters"]
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_layer_norm_rms_eps(float(str(config["rms_norm_eps"])))
    writer.add_vocab_size(number("vocab_size"))
    writer.add_tokenizer_model("no_vocab")  # it is asked in token ids
    for name, value in load_file(own / "model.safetensors").items():
        part = name.removeprefix("model.").removesuffix(".weight")
        whole = value.astype(np.float32)
        if part == "embed_tokens":
            told = "token_embd"
        elif part == "norm":
            told = "output_norm"
        elif part == "lm_head":
            told = "output"
        else:
            _, layer, rest = part.split(".", 2)
            told = f"blk.{layer}.{NAMES[rest]}"
            if rest in ("self_attn.q_proj", "self_attn.k_proj"):
                whole = rotated(whole, heads)
        writer.add_tensor(f"{told}.weight", whole)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder
