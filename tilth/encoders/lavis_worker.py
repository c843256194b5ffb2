# It runs in an environment whose libraries have no types.
# mypy: ignore-errors
"""The other end of `lavis.py`: runs alone, by the Python of an environment with salesforce-lavis and nothing of ours.

It builds LAVIS's own network in the sizes that the checkpoint's `config.json` states, and fills it with the checkpoint's
weights under the names that LAVIS has for them; nothing is fetched, and no pickle is read.
"""

import json
import os
import struct
import sys
from functools import partial
from pathlib import Path

PAIRS_AT_ONCE = 256
# safetensors' name of a number format -> numpy's; bfloat16 is widened by hand
KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
RENAMED = (
    ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
    ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
    ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
    ("vision_model.post_layernorm", "ln_vision"),
    ("vision_model.encoder.layers.", "visual_encoder.blocks."),
    (".layer_norm1.", ".norm1."),
    (".layer_norm2.", ".norm2."),
    (".self_attn.qkv.weight", ".attn.qkv.weight"),
    (".self_attn.projection.", ".attn.proj."),
    ("qformer.layernorm.", "Qformer.bert.embeddings.LayerNorm."),
    ("qformer.encoder.", "Qformer.bert.encoder."),
    (".attention.attention.", ".attention.self."),
    (".crossattention.attention.", ".crossattention.self."),
    ("vision_projection.", "vision_proj."),
    ("text_projection.", "text_proj."),
)


def read_safetensors(path):
    """Yield names and tensors of a file: a header of JSON after its length, then the numbers."""
    import numpy as np
    import torch

    with open(path, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
        start = 8 + length
        for name, about in header.items():
            if name == "__metadata__":
                continue
            begin, end = about["data_offsets"]
            stream.seek(start + begin)
            data = stream.read(end - begin)
            if about["dtype"] == "BF16":
                values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
            else:
                values = np.frombuffer(data, KINDS[about["dtype"]])
            values = values.astype("<f4") if values.dtype.kind == "f" else values
            yield name, torch.from_numpy(values.reshape(about["shape"]).copy())


def renamed(tensors, hidden):
    """Yield the tensors under LAVIS's names; it keeps the query and value parts of a bias apart, and none for the keys."""
    for name, tensor in tensors:
        if name.startswith("embeddings."):
            yield "Qformer.bert." + name, tensor
        elif name.endswith(".self_attn.qkv.bias"):
            block = name.split(".")[3]
            yield f"visual_encoder.blocks.{block}.attn.q_bias", tensor[:hidden]
            yield f"visual_encoder.blocks.{block}.attn.v_bias", tensor[2 * hidden :]
        else:
            for ours, theirs in RENAMED:
                name = name.replace(ours, theirs)
            yield name, tensor


def build(folder):
    """Make LAVIS's `Blip2ITM` in the sizes of a config, with the weights of a folder."""
    import torch
    from lavis.models.blip2_models import blip2_image_text_matching as itm
    from lavis.models.blip2_models.blip2 import LayerNorm
    from lavis.models.blip2_models.Qformer import BertConfig, BertLMHeadModel
    from lavis.models.eva_vit import VisionTransformer

    config = json.loads((folder / "config.json").read_text())
    seen, read = config["vision_config"], config["qformer_config"]

    class Tokens:
        """Stands where LAVIS asks a tokenizer for its size; tokens come from the other end."""

        def __len__(self):
            return read["vocab_size"]

    class Sized(itm.Blip2ITM):
        """LAVIS's model, whose parts are fetched from the web, with parts of the sizes that the config states."""

        @classmethod
        def init_tokenizer(cls):
            return Tokens()

        @classmethod
        def init_vision_encoder(cls, model_name, img_size, drop_path_rate, use_grad_checkpoint, precision):
            tower = VisionTransformer(
                img_size=img_size,
                patch_size=seen["patch_size"],
                use_mean_pooling=False,
                embed_dim=seen["hidden_size"],
                depth=seen["num_hidden_layers"],
                num_heads=seen["num_attention_heads"],
                mlp_ratio=seen["intermediate_size"] / seen["hidden_size"],
                qkv_bias=True,
                norm_layer=partial(torch.nn.LayerNorm, eps=seen["layer_norm_eps"]),
            )
            return tower, LayerNorm(tower.num_features)

        @classmethod
        def init_Qformer(cls, num_query_token, vision_width, cross_attention_freq=2):  # noqa: N802 - LAVIS's name
            sizes = BertConfig(
                **{k: v for k, v in read.items() if k not in ("model_type", "cross_attention_frequency")},
                add_cross_attention=True,
                cross_attention_freq=cross_attention_freq,
                encoder_width=vision_width,
                query_length=num_query_token,
            )
            former = BertLMHeadModel(sizes)
            return former, torch.nn.Parameter(torch.zeros(1, num_query_token, sizes.hidden_size))

    model = Sized(
        img_size=seen["image_size"],
        vit_precision="fp32",
        num_query_token=config["num_query_tokens"],
        cross_attention_freq=read["cross_attention_frequency"],
        embed_dim=config["image_text_hidden_size"],
    )
    # The published checkpoint's layer norm before the projection lies in ours under the vision model, too.
    files = sorted(folder.glob("*.safetensors"))
    weights = dict(pair for file in files for pair in renamed(read_safetensors(file), seen["hidden_size"]))
    missing, extra = model.load_state_dict(weights, strict=False)
    missing = [n for n in missing if not n.startswith("Qformer.cls") and n != "temp" and "position_ids" not in n]
    if missing or extra:
        raise ValueError(f"weights do not fit LAVIS's network: missing {missing[:3]}, unknown {list(extra)[:3]}")
    return model.eval()


def images(model, pixels):
    """Return unit query vectors, as `Blip2ITM.forward` makes them for `itc`."""
    import torch

    states, seen = look(model, pixels)
    queries = model.query_tokens.expand(len(states), -1, -1)
    out = model.Qformer.bert(
        query_embeds=queries, encoder_hidden_states=states, encoder_attention_mask=seen, return_dict=True
    )
    return torch.nn.functional.normalize(model.vision_proj(out.last_hidden_state), dim=-1)


def texts(model, ids, mask):
    """Return unit vectors of texts, as `Blip2ITM.forward` makes them."""
    import torch

    out = model.Qformer.bert(ids, attention_mask=mask, return_dict=True)
    return torch.nn.functional.normalize(model.text_proj(out.last_hidden_state[:, 0]), dim=-1)


def match(model, pixels, ids, mask):
    """Return probabilities `(n, t)`, as `Blip2ITM.forward` makes logits for `itm`."""
    import torch

    states, _ = look(model, pixels)
    pairs = [(i, t) for i in range(len(states)) for t in range(len(ids))]
    parts = []
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        rows, columns = (list(x) for x in zip(*pairs[start : start + PAIRS_AT_ONCE], strict=True))
        queries = model.query_tokens.expand(len(rows), -1, -1)
        ones = torch.ones(queries.shape[:2], dtype=torch.long, device=queries.device)
        out = model.Qformer.bert(
            ids[columns],
            query_embeds=queries,
            attention_mask=torch.cat([ones, mask[columns]], 1),
            encoder_hidden_states=states[rows],
            encoder_attention_mask=torch.ones(states[rows].shape[:2], dtype=torch.long, device=states.device),
            return_dict=True,
        )
        logits = model.itm_head(out.last_hidden_state[:, : queries.shape[1]]).mean(1)
        parts.append(logits.softmax(1)[:, 1])
    return torch.cat(parts).reshape(len(states), len(ids))


def look(model, pixels):
    """Return the states of the vision tower and their mask."""
    import torch

    states = model.ln_vision(model.visual_encoder(pixels))
    return states, torch.ones(states.shape[:2], dtype=torch.long, device=states.device)


def pack(verb, arrays):
    """Write a message; see `lavis.py`."""
    import pyarrow as pa

    rows = [(name, list(a.shape), str(a.dtype), a.tobytes()) for name, a in arrays.items()]
    kinds = (pa.string(), pa.list_(pa.int64()), pa.string(), pa.large_binary())
    columns = (
        [pa.array(c, k) for c, k in zip(zip(*rows, strict=True), kinds, strict=True)]
        if rows
        else [pa.array([], k) for k in kinds]
    )
    batch = pa.record_batch(columns, names=["name", "shape", "kind", "data"]).replace_schema_metadata({"verb": verb})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data = sink.getvalue().to_pybytes()
    return struct.pack("<Q", len(data)) + data


def unpack(data):
    """Read a message."""
    import numpy as np
    import pyarrow as pa

    reader = pa.ipc.open_stream(data)
    verb = reader.schema.metadata[b"verb"].decode()
    rows = reader.read_all().to_pylist()
    return verb, {r["name"]: np.frombuffer(r["data"], r["kind"]).reshape(r["shape"]).copy() for r in rows}


def main():
    """Load, say so, and answer until the pipe closes."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the library prints goes where it does no harm
    import numpy as np
    import torch

    verbs = {"images": images, "texts": texts, "match": match}
    try:
        device = torch.device(sys.argv[2])
        model = build(Path(sys.argv[1])).to(device)
        pipe.write(pack("ready", {}))
    except Exception as error:  # noqa: BLE001 - the other end tells the user
        pipe.write(pack("error", {"message": np.frombuffer(f"{type(error).__name__}: {error}".encode(), np.uint8)}))
        return
    finally:
        pipe.flush()
    while head := sys.stdin.buffer.read(8):
        verb, arrays = unpack(sys.stdin.buffer.read(struct.unpack("<Q", head)[0]))
        try:
            with torch.inference_mode():
                out = verbs[verb](model, **{name: torch.from_numpy(a).to(device) for name, a in arrays.items()})
            answer = pack(verb, {"values": out.float().cpu().numpy()})
        except Exception as error:  # noqa: BLE001 - the other end tells the user
            answer = pack("error", {"message": np.frombuffer(f"{type(error).__name__}: {error}".encode(), np.uint8)})
        pipe.write(answer)
        pipe.flush()


if __name__ == "__main__":
    main()
