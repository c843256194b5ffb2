"""Write trained models as the ONNX graphs that the runtime serves, and prove that they say the same as torch.

classifier.onnx   pixels (n, 3, h, w) -> logits (n, k)
detector.onnx     pixels (n, 3, h, w) -> logits (n, q, k), boxes (n, q, 4) cxcywh in [0, 1]
verdict.onnx      ids, mask (n, t) -> logits (n, labels) after the last real token
"""

import json
import shutil
import string
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tilth.encoders.fusion import finite
from tilth.errors import ModelError
from tilth.train.artifacts.artifact import About, any_size, box_logits, load_trained

OPSET = 18
TOLERANCE = 2e-3
SAME_QUERIES = 0.85
MAX_PROMPT_TOKENS = 512  # of a language model that does not say
SCORE_THRESHOLD = 0.3  # of a detector that was not calibrated: boxes below are noise to a reader


Pixels: TypeAlias = npt.NDArray[np.float32]


def _images(about: About, pixels: Pixels | None) -> Any:
    """Return what graph and model are compared by, as a tensor `(n, 3, h, w)`."""
    import torch

    if pixels is None:
        return torch.rand(3, 3, about.side, about.side, generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(pixels)


def _settings(about: About) -> dict[str, object]:
    return {
        "labels": about.labels,
        "size_wh": [about.side, about.side],
        "mean": about.mean,
        "std": about.std,
        "keep_aspect": about.keep_aspect,
    }


def export_classifier(folder: Path, out: Path, pixels: Pixels | None = None) -> Path:
    """Write `classifier.onnx` and `classifier.json` into `out`.

    Args:
        folder: The model.
        out: The bundle.
        pixels: Real images, prepared `(n, 3, h, w)`, by which graph and model are compared; noise when None.

    Raises:
        ModelError: The graph does not say the same as the model, or either says what is no number.
    """
    import torch

    model, about = load_trained(folder, "cpu")

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(pixel_values=pixels, **any_size(self.model, about.side)).logits
            return logits

    path = _export(Logits(), {"pixels": _images(about, pixels)}, ["logits"], out / "classifier.onnx")
    (out / "classifier.json").write_text(json.dumps({**_settings(about), "calibration": about.calibration}, indent=1))
    return path


def export_detector(folder: Path, out: Path, pixels: Pixels | None = None) -> Path:
    """Write `detector.onnx` and `detector.json` into `out`; see `export_classifier`.

    Raises:
        ModelError: The graph does not say the same as the model, or either says what is no number.
    """
    import torch

    model, about = load_trained(folder, "cpu")

    class Boxes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            said = self.model(pixel_values=pixels)
            return box_logits(said.logits, len(about.labels)), said.pred_boxes

    path = _export(
        Boxes(), {"pixels": _images(about, pixels)}, ["logits", "boxes"], out / "detector.onnx", ordered=False
    )
    threshold = SCORE_THRESHOLD if about.score_threshold is None else about.score_threshold
    (out / "detector.json").write_text(json.dumps({**_settings(about), "score_threshold": threshold}, indent=1))
    return path


def verdict_settings(folder: Path, labels: Sequence[str], template_version: int) -> dict[str, Any]:
    """Say how a language model answers: by its own `verdict.json`, or, for a model off the shelf, by letters.

    Args:
        folder: The model.
        labels: The verdicts.
        template_version: Of the prompt. A model of its own that was taught this version reads what the labels mean, and takes any.

    Raises:
        ModelError: The tokenizer is absent, cuts the letters up, or writes chats in which the prompt is not to be found; or there are
            more labels than letters.
    """
    own = folder / "verdict.json"
    if own.exists():
        told: dict[str, Any] = json.loads(own.read_text())
        if told["template_version"] != template_version:
            return told
        if len(labels) > len(told["label_token_ids"]):
            raise ModelError(
                f"{folder}: tells {len(told['label_token_ids'])} labels apart, got {len(labels)}; leave some out"
            )
        return {**told, "labels": list(labels)}
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.exists():
        raise ModelError(f"{folder}: no tokenizer.json; the runtime reads prompts with it")
    tokenizer = Tokenizer.from_file(str(path))
    before, after = _chat(folder)
    tokens: list[int] = []
    for letter in string.ascii_uppercase:
        # after the colon that ends a prompt, most models write a letter with the space before it; a turn of a chat begins with the letter
        forms = (letter, f" {letter}") if after else (f" {letter}", letter)
        found = [tokenizer.encode(form, add_special_tokens=False).ids for form in forms]
        single = next((ids[0] for ids in found if len(ids) == 1), None)
        if single is None or single in tokens:  # all letters that it does not know are one token
            break
        tokens.append(single)
    if len(tokens) < len(labels):
        letter = string.ascii_uppercase[len(tokens)]
        raise ModelError(f"{folder}: its tokenizer has no token for the letter {letter}; choose another language model")
    return {
        "template_version": template_version, "labels": list(labels), "label_token_ids": tokens,
        "max_tokens": MAX_PROMPT_TOKENS, "padding": "left", "before": before, "after": after,
    }  # fmt: skip


def _chat(folder: Path) -> tuple[str, str]:
    """Return what a model's chats begin with, and what stands between a question and the answer; nothing for a model without chats.

    Raises:
        ModelError: The question cannot be told from the rest.
    """
    from transformers import AutoTokenizer

    tokenizer, question = AutoTokenizer.from_pretrained(folder), "\ufffcquestion\ufffc"
    if not getattr(tokenizer, "chat_template", None):
        return "", ""
    turns = [{"role": "user", "content": question}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False))
    before, found, after = text.partition(question)
    if not found:
        raise ModelError(
            f"{folder}: its chat template does not write down what the user says; choose another language model"
        )
    return before.removeprefix(tokenizer.bos_token or "\ufffc"), after  # which the tokenizer puts there anyway


def export_language_model(folder: Path, out: Path, told: Mapping[str, Any]) -> Path:
    """Write `verdict.onnx`, `verdict.json` and `tokenizer.json` into `out`.

    The graph `ids, mask (n, t), past (2 × layers, heads, p, width) -> logits (n, k), kept (2 × layers, heads, p + t, width)` reads on after
    what it was given of a shared beginning, and returns what it makes of the first of the n.

    Args:
        folder: The model.
        out: The bundle.
        told: How it answers; see `verdict_settings`.

    Raises:
        ModelError: The graph does not say the same as the model, or either says what is no number.
    """
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, attn_implementation="eager"
    ).eval()
    labels = torch.tensor(told["label_token_ids"])

    class Verdict(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = model.model, model.lm_head

        def forward(
            self, ids: torch.Tensor, mask: torch.Tensor, past: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            n, t, p = ids.shape[0], ids.shape[1], past.shape[2]
            cache = DynamicCache()
            for layer in range(past.shape[0] // 2):
                keys, values = (past[2 * layer + i][None].expand(n, -1, -1, -1) for i in (0, 1))
                cache.update(keys, values, layer)
            places = torch.arange(t)
            seen = (places[None, :] <= places[:, None])[None] & (
                mask[:, None, :] > 0
            )  # itself and before, and no filling
            seen = torch.cat([torch.ones(n, t, p, dtype=torch.bool), seen], 2)[:, None]
            unseen = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
            states = self.body(
                input_ids=ids, attention_mask=unseen, position_ids=p + (mask.cumsum(1) - 1).clamp(min=0),
                past_key_values=cache, use_cache=True,
            ).last_hidden_state  # fmt: skip
            last = (mask * places).argmax(1)
            chosen = states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]
            bias = None if self.head.bias is None else self.head.bias[labels]
            logits = torch.nn.functional.linear(chosen, self.head.weight[labels], bias)  # and of no other word
            return logits, torch.stack([each[0] for one in cache.layers for each in (one.keys, one.values)])

    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(3, model.config.vocab_size, (3, 24)))
    mask = torch.ones_like(ids)
    if told["padding"] == "left":
        mask[1, :7] = 0
    else:
        mask[1, 17:] = 0
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (2 * config.num_hidden_layers, heads, width)
    past = 0.1 * torch.randn(shape[0], heads, 5, width, generator=torch.Generator().manual_seed(0))
    tokens = {0: "n", 1: "tokens"}
    axes = {"ids": tokens, "mask": tokens, "past": {2: "read"}, "logits": {0: "n"}, "kept": {2: "all"}}
    given = {"ids": ids, "mask": mask, "past": past}
    path = _export(Verdict(), given, ["logits", "kept"], out / "verdict.onnx", axes=axes)
    (out / "verdict.json").write_text(json.dumps({**told, "past_shape": shape}, indent=2) + "\n")
    shutil.copy(folder / "tokenizer.json", out / "tokenizer.json")
    return path


def _export(
    module: Any, inputs: Mapping[str, Any], outputs: Sequence[str], path: Path,
    axes: Mapping[str, Mapping[int, str]] | None = None, *, ordered: bool = True,
) -> Path:  # fmt: skip
    """Export with a free batch size, then compare with torch on batches of 1 and of all.

    Args:
        module: The model.
        inputs: What both are compared by, by name.
        outputs: Their names.
        path: Of the graph.
        axes: Which axes of inputs and outputs are free; the first of each when None.
        ordered: Whether the second axis of outputs has an order.
    """
    import torch

    module = module.eval()
    _check_weights(module, path.name)
    free = axes or {name: {0: "n"} for name in (*inputs, *outputs)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracers warn of every constant
        torch.onnx.register_custom_op_symbolic(  # type: ignore[attr-defined]  # is not in its `__all__`
            "aten::_upsample_bicubic2d_aa", _smooth_resize, OPSET
        )
        torch.onnx.export(
            module, tuple(inputs.values()), str(path), input_names=list(inputs), output_names=list(outputs),
            dynamic_axes=free,
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    _in_two_files(path)
    _compare(module, inputs, outputs, path, ordered, [name for name in inputs if 0 in free[name]])
    return path


def _in_two_files(path: Path) -> None:
    """Put the weights of a graph beyond 2 GiB, which the exporter leaves as a file each, into one file beside it."""
    import onnx

    graph = onnx.load(path, load_external_data=False)
    told = (entry for tensor in graph.graph.initializer for entry in tensor.external_data)
    loose = {path.parent / entry.value for entry in told if entry.key == "location"}
    if len(loose) > 1:
        onnx.load_external_data_for_model(graph, str(path.parent))
        for file in loose:
            file.unlink()
        onnx.save(graph, path, save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.name}.data")


def _smooth_resize(graph: Any, x: Any, size: Any, align_corners: Any, *scales: Any) -> Any:
    """Write a bicubic resize with antialiasing, by which RF-DETR fits its position embeddings to the images; torch has no rule for it.

    Both follow Pillow there, so that the cubic's coefficient is -0.5.
    """
    import torch

    def constant(*values: int, dtype: Any = torch.int64) -> Any:
        return graph.op("Constant", value_t=torch.tensor(values, dtype=dtype))

    same = graph.op("Slice", graph.op("Shape", x), constant(0), constant(2))  # images and channels
    sizes = graph.op("Concat", same, size, axis_i=0)
    unused = constant(dtype=torch.float32)  # region and scales
    return graph.op(
        "Resize", x, unused, unused, sizes, mode_s="cubic", cubic_coeff_a_f=-0.5, antialias_i=1, exclude_outside_i=1
    )


def _check_weights(module: Any, name: str) -> None:
    """Refuse a model with weights that are no numbers; a buffer may be infinite on purpose, as masks of attention are."""
    parameters = [(key, value.isfinite().all()) for key, value in module.named_parameters()]
    buffers = [(key, not value.isnan().any()) for key, value in module.named_buffers()]
    if broken := [key for key, sound in (*parameters, *buffers) if not sound]:
        raise ModelError(
            f"{name}: {len(broken)} of {len(parameters) + len(buffers)} weights hold values that are no numbers, {broken[0]} first; "
            "train it again, with a lower lr if the loss ran away"
        )


def _compare(
    module: Any, inputs: Mapping[str, Any], outputs: Sequence[str], path: Path, ordered: bool, batched: Sequence[str]
) -> None:
    """Hold the graph to the model.

    The queries of a detector are the best of many proposals; equally good ones come in either order, so they are compared as
    a set: nearly each query of the model needs its like in the graph. The last few may be other proposals of the same score.
    """
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for n in (1, len(inputs[batched[0]])):
        some = {name: value[:n] if name in batched else value for name, value in inputs.items()}
        with torch.no_grad():
            expected = module(*some.values())
        expected = expected if isinstance(expected, tuple) else (expected,)
        got = session.run(list(outputs), {name: value.numpy() for name, value in some.items()})
        pairs = [
            (finite(a.numpy(), f"the model of {path.name}"), finite(b, path.name))
            for a, b in zip(expected, got, strict=True)
        ]
        if wrong := [
            (b.shape, a.shape) for a, b in pairs if a.shape != b.shape
        ]:  # numpy would stretch one to the other
            raise ModelError(f"{path.name}: gives {wrong[0][0]} of {n} images where the model gives {wrong[0][1]}")
        if ordered:
            gap = max(float(np.abs(a - b).max()) for a, b in pairs)
        else:
            ours, theirs = (np.concatenate(side, axis=2) for side in zip(*pairs, strict=True))
            each = np.abs(ours[:, :, None] - theirs[:, None]).max(3).min(2)
            gap = float(np.quantile(each, SAME_QUERIES))
        if gap > TOLERANCE:
            raise ModelError(f"{path.name}: differs from the model by {gap:.2g} at batch size {n}")
