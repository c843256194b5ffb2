"""Peak memory and time of the step `ground` from a thousand images to a hundred thousand.

    python benchmarks/ground_memory.py

The real step runs through the real engine and dataset; the images have 32 x 32 pixels and the model is a GroundingDINO of
next to no width with random weights, so that what is measured is the way to and from the model, not the model. Each size
runs in two fresh processes, one that adds the images and one that labels them; peaks are the system's own count (VmHWM).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from figures import Figures, add_option

from tilth import models
from tilth.annotate.grounding.ground import Ground
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.events import Events
from tilth.images import encode_png
from tilth.policy import load_policy
from tilth.samples import NewSample

POLICY = Path(__file__).parents[1] / "configs" / "policies" / "starter.yaml"
SIDE = 32


def save_tiny_model(folder: Path) -> None:
    """Save a GroundingDINO that costs nearly nothing, with the words of the starter's."""
    import torch
    from transformers import AutoConfig, AutoProcessor, GroundingDinoForObjectDetection

    base = models.locate("starter:grounding")
    config = AutoConfig.from_pretrained(base, local_files_only=True)
    config.backbone_config.hidden_sizes, config.backbone_config.depths = [8, 16, 32], [1, 1, 1]
    config.text_config.hidden_size = config.d_model = 32
    config.text_config.intermediate_size = config.encoder_ffn_dim = config.decoder_ffn_dim = 32
    config.text_config.num_hidden_layers = config.encoder_layers = 1
    config.decoder_layers = 2  # one would tie its weights to nothing
    config.dtype = torch.float32
    torch.manual_seed(0)
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(base, local_files_only=True)
    processor.image_processor.size = {"shortest_edge": SIDE, "longest_edge": 2 * SIDE}
    processor.save_pretrained(folder)


def images(count: int) -> Iterator[NewSample]:
    rng = np.random.default_rng(0)
    for n in range(count):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        yield NewSample(data=encode_png(pixels), origin={"n": n})


def memory_mb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) // 1024


def part(name: str, folder: Path, count: int) -> None:
    """Do one part in this process, and print what it took."""
    work = Work(
        name=name,
        dataset=Dataset(folder / "dataset"),
        policy=load_policy(POLICY),
        folder=folder / "files",
        events=Events(folder / "events.jsonl"),
        device="cpu",
    )
    began = time.monotonic()
    if name == "add":
        told = work.add("images", images(count))["ok"]
    else:
        facts = Ground(model=str(folder / "model")).run(work)
        told = facts["boxes"]  # type: ignore[assignment]
    row = {"part": name, "images": count, "found": told, "seconds": round(time.monotonic() - began, 1)}
    row["processor_seconds"] = round(time.process_time(), 1)
    print(json.dumps({**row, "peak_mb": memory_mb("VmHWM"), "anonymous_mb_at_end": memory_mb("RssAnon")}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 3_000, 10_000, 30_000, 100_000])
    parser.add_argument("--part", choices=("add", "ground"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    add_option(parser)
    asked = parser.parse_args()
    if asked.part:
        part(asked.part, asked.folder, asked.sizes[0])
        return
    figures = Figures("ground_memory", seeds=[0])
    for size in asked.sizes:
        with tempfile.TemporaryDirectory(prefix="ground-memory-") as name:
            save_tiny_model(Path(name) / "model")
            for each in ("add", "ground"):
                command = [sys.executable, __file__, "--part", each, "--folder", name, "--sizes", str(size)]
                line = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)
                print(line.strip().splitlines()[-1], flush=True)
                row = json.loads(line.strip().splitlines()[-1])
                key = f"{each}.{size}"
                figures.add(f"{key}.peak_mb", row["peak_mb"], "MB")
                figures.add(f"{key}.not_mapped_at_end_mb", row["anonymous_mb_at_end"], "MB")
                figures.add(f"{key}.processor_s", row["processor_seconds"], "s")
                figures.add(f"{key}.processor_ms_an_image", 1000 * row["processor_seconds"] / size, "ms")
    first, last = (figures.value(f"ground.{size}.peak_mb") for size in (asked.sizes[0], asked.sizes[-1]))
    figures.add("ground.more_peak_from_first_to_last", last / first - 1, "share")
    figures.write(asked.results)


if __name__ == "__main__":
    main()
