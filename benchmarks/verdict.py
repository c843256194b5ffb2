"""A verdict of Stage 2 beside transformers' `generate()`, with the same model and prompt, and what reading the policy once is worth.

    python benchmarks/verdict.py
    python benchmarks/verdict.py --rounds 2 --layers 4      # a small try

The model has the form of Qwen2.5 with random weights, a tokenizer and a chat of its kind; the policy takes about 300 tokens, as in what
guard models ask. Each round asks the same image of every way, in turn:

    generate   `generate()` of at most 16 tokens, in float32 or bfloat16, whichever is faster here, as guards' model cards show it
    anew       one pass over the whole prompt and the logits of the letters
    kept       one pass over the case alone, after what was kept of the policy: what a bundle does

Whether the answer is the same is told by the starter's verdict model, which was taught to answer, on cases that its training never
shows: the letter that `generate()` writes, and the label that Stage 2 gives. Takes about 4 minutes on two cores.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from figures import Figures, add_option
from full_size_models import write_qwen
from transformers import AutoModelForCausalLM, AutoTokenizer

from tilth import models
from tilth.runtime.bundles.settings import VerdictSettings
from tilth.runtime.judges.graph import GraphModel
from tilth.runtime.judges.rows import Rows, by_letter, encode
from tilth.runtime.stages.graphs import open_graph
from tilth.runtime.stages.stage2 import Stage2
from tilth.runtime.stages.template import DEFINED, LETTERS, case, rules
from tilth.starter.verdict.cases import LABELS, Case, draw_case
from tilth.starter.verdict.policies import starter
from tilth.train.artifacts.export import export_language_model, verdict_settings

POLICY_TOKENS = 300
ANSWER = 16  # tokens at most
MEANS = "what a person of this site would call so, whoever shows it, drawn or real, unless it is news, art or teaching"


def stage2_of(folder: Path, made: Path, definitions: dict[str, str]) -> tuple[Stage2, Rows, GraphModel, Any]:
    """Export a language model and open it as a bundle does."""
    made.mkdir()
    export_language_model(folder, made, verdict_settings(folder, LABELS, DEFINED))
    told = VerdictSettings.model_validate_json((made / "verdict.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    graph = open_graph(made / "verdict.onnx", {"ids", "mask", "past"}, {"logits", "kept"})
    begins = encode(tokenizer, told.before + rules(told.labels, definitions), special=True, begins=True)
    ends = tuple(encode(tokenizer, told.after, special=True)) if told.after else ()
    model = GraphModel(graph, begins, told.past_shape, told.padding)
    rows = Rows(
        model=model, tokenizer=tokenizer, begins=begins, ends=(ends,), max_tokens=1024, read=by_letter(len(told.labels))
    )  # fmt: skip
    return Stage2(judge=rows, labels=told.labels), rows, model, told


def definitions_of(tokens: int, folder: Path) -> dict[str, str]:
    """Write a policy of about so many tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = MEANS.split()
    for n in range(1, 400):
        means = {label: " ".join((words * 20)[:n]) for label in LABELS}
        if len(tokenizer(rules(LABELS, means))["input_ids"]) >= tokens:
            return means
    raise SystemExit(f"the policy does not come to {tokens} tokens")


def timed(ask: Callable[[], object]) -> float:
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began


def speeds(figures: Figures, layers: int, rounds: int, work: Path) -> None:
    """Time the three ways, image by image in turn."""
    folder = work / "qwen"
    size = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": layers, "num_attention_heads": 8}
    write_qwen(folder, **size, initializer_range=0.1)  # so that not only the last token decides
    _, rows, model, told = stage2_of(folder, work / "bundle", definitions_of(POLICY_TOKENS, folder))
    graph, kept = model.graph, model.kept
    assert kept is not None
    whole = np.zeros((told.past_shape[0], told.past_shape[1], 0, told.past_shape[2]), np.float32)
    rivals = {
        kind: AutoModelForCausalLM.from_pretrained(folder, dtype=kind).eval()
        for kind in (torch.float32, torch.bfloat16)
    }
    took: dict[str, list[float]] = {name: [] for name in ("kept", "anew", *(f"generate_{str(k)[6:]}" for k in rivals))}
    apart, lengths = [], []
    for i in range(-1, rounds):  # the first warms up
        drawn = draw_case(np.random.default_rng((71, i + 1)), held_out=True)
        (own,) = rows.rows(case(drawn.screen, drawn.text))
        ids = np.array([[*rows.begins, *own]])
        row = {"ids": np.array([own]), "mask": np.ones((1, len(own)), np.int64), "past": kept}
        every = {"ids": ids, "mask": np.ones_like(ids), "past": whole}
        ways: dict[str, Callable[[], Any]] = {
            "kept": lambda row=row: graph.run(["logits"], row),
            "anew": lambda every=every: graph.run(["logits"], every),
        }
        for kind, rival in rivals.items():
            ways[f"generate_{str(kind)[6:]}"] = lambda rival=rival, ids=ids: rival.generate(
                torch.from_numpy(ids), attention_mask=torch.ones(ids.shape, dtype=torch.long), max_new_tokens=ANSWER, do_sample=False,
                pad_token_id=0,
            )  # fmt: skip
        order = list(ways) if i % 2 else list(ways)[::-1]
        for name in order:
            seconds = timed(ways[name])
            if i >= 0:
                took[name].append(seconds)
        apart.append(float(np.abs(ways["kept"]()[0] - ways["anew"]()[0]).max()))
        lengths.append(len(own))
    median = {name: float(np.median(values)) for name, values in took.items()}
    best = min((name for name in median if name.startswith("generate")), key=lambda name: median[name])
    rival = f"transformers {transformers.__version__} generate()"
    ratio = np.array(took[best]) / np.array(took["kept"])
    figures.add("speedup", float(np.median(ratio)), "times", ci95=bootstrap(ratio), n=rounds, rival=rival)
    gain = np.array(took["anew"]) / np.array(took["kept"])
    figures.add("prefix_speedup", float(np.median(gain)), "times", ci95=bootstrap(gain), n=rounds)
    for name, value in median.items():
        figures.add(f"{name}.ms", 1000 * value, "ms", n=rounds)
    figures.add("policy_tokens", len(rows.begins), "tokens")
    figures.add("case_tokens", float(np.mean(lengths)), "tokens", n=len(lengths))
    figures.add("logits_apart", max(apart), "")
    figures.add("parameters", sum(p.numel() for p in rivals[torch.float32].parameters()) / 1e6, "million")


def bootstrap(values: "np.ndarray[Any, Any]") -> list[float]:
    """Return the 95 % interval of the median."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (2000, len(values))), axis=1)
    return [float(end) for end in np.quantile(medians, (0.025, 0.975))]


def sameness(figures: Figures, cases: int, work: Path) -> None:
    """Compare the answers of a model that was taught to answer."""
    folder = models.locate("starter:verdict")
    stage2, rows, _, _ = stage2_of(folder, work / "starter", starter().definitions)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    drawn = [draw_case(np.random.default_rng((72, i)), held_out=True) for i in range(cases)]
    same = [asked(one, stage2, rows, tokenizer, model) for one in drawn]
    figures.add("same", float(np.mean(same)), "share", n=cases)


def asked(one: Case, stage2: Stage2, rows: Rows, tokenizer: Any, model: Any) -> bool:
    """Tell whether `generate()` writes the letter of the label that Stage 2 finds most likely."""
    (said,) = stage2([one.screen], [one.text])
    (own,) = rows.rows(case(one.screen, one.text))
    ids = torch.tensor([[*rows.begins, *own]])
    written = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False, pad_token_id=0
    )
    letter = tokenizer.decode(written[0, ids.shape[1] :]).strip().upper()
    return letter == LETTERS[LABELS.index(max(said, key=lambda label: said[label]))]


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=20, help="images that each way is timed on (default: %(default)s)"
    )
    parser.add_argument("--layers", type=int, default=12, help="of the model (default: %(default)s)")
    parser.add_argument("--cases", type=int, default=1000, help="on which answers are compared (default: %(default)s)")
    add_option(parser)
    given = parser.parse_args()
    figures = Figures("verdict", seeds=[0])
    with tempfile.TemporaryDirectory() as name:
        speeds(figures, given.layers, given.rounds, Path(name))
        sameness(figures, given.cases, Path(name))
    print(json.dumps(json.loads(figures.write(given.results).read_text())["figures"], indent=1))


if __name__ == "__main__":
    main()
