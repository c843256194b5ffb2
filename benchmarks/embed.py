"""How fast a corpus of photographs becomes vectors, beside clip-retrieval on the same weights, and the bare forward pass.

    python benchmarks/embed.py --photos /data/photos --clip-retrieval /envs/clip-retrieval/bin/python

The model has the size of CLIP ViT-B/32, the default of clip-retrieval, with random weights: speed does not ask what they are.
Each job is run on `--few` and on `--many` copies of the photographs, and the rate is that of the difference, so that loading
does not count. Jobs take turns, `--rounds` times, and the median is printed. Ours runs in the precision that it chooses for
this machine and in float32, which is what clip-retrieval uses on a CPU.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from figures import Figures, add_option
from PIL import Image

OURS = """
import json, sys, time
from pathlib import Path
import numpy as np
import torch
from tilth import models
from tilth.events import Events
from tilth.images import decode
from tilth.mining.corpora.opening import open_corpus
from tilth.mining.vectors.embed import embed
from tilth.encoders.families import open_encoder
from tilth.mining.vectors.store import Store
job, model, folder, out = sys.argv[1:5]
if job.endswith("float32"):
    models.precision = lambda on: "float32"
torch.manual_seed(0)
encoder = open_encoder(model, "cpu")
corpus = open_corpus(folder)
if job.startswith("bare"):
    ready = [encoder.inputs.load(corpus.read(item.key)) for item, _ in zip(corpus.items(), range(64))]
    pixels = encoder._images(images=ready, return_tensors="pt")["pixel_values"]
    count = max(256, sum(1 for _ in corpus.items()))
    with torch.inference_mode(), torch.autocast("cpu", encoder._dtype, enabled=encoder._dtype != torch.float32):
        encoder._model.get_image_features(pixel_values=pixels)
        began = time.monotonic()
        for start in range(0, count, 64):
            encoder._model.get_image_features(pixel_values=pixels[: min(64, count - start)])
    print(json.dumps((time.monotonic() - began) / count))
else:
    store = Store(Path(out), model=model, digest=encoder.digest, queries=encoder.queries, width=encoder.width)
    began = time.monotonic()
    embed(corpus, encoder, store, Events())
    print(json.dumps(time.monotonic() - began))
"""

THEIRS = """
import json, sys, time
from clip_retrieval.clip_inference.worker import worker
model, folder, out = sys.argv[1:4]
began = time.monotonic()
worker(tasks=[0], input_dataset=folder, output_folder=out, output_partition_count=1, batch_size=64, num_prepro_workers=2,
       enable_text=False, clip_model="hf_clip:" + model, use_jit=False)
print(json.dumps(time.monotonic() - began))
"""


def make_model(folder: Path) -> Path:
    """Save a CLIP of the size of ViT-B/32 with random weights, and a vocabulary that nobody reads."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

    torch.manual_seed(0)
    CLIPModel(CLIPConfig()).save_pretrained(folder)
    letters = [chr(n) for n in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokens = CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    CLIPProcessor(CLIPImageProcessor(), tokens).save_pretrained(folder)
    return folder


def copies(photos: Path, folder: Path, count: int) -> Path:
    """Fill a folder with so many photographs, over and again in new encodings."""
    folder.mkdir()
    files = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    for number in range(count):
        data = io.BytesIO()
        with Image.open(files[number % len(files)]) as opened:
            opened.convert("RGB").save(data, "JPEG", quality=90 - number // len(files))
        (folder / f"{number:05d}.jpg").write_bytes(data.getvalue())
    return folder


def seconds(line: list[str]) -> float:
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"},
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def measured(job: str, clip_retrieval: str, model: str, few: Path, many: Path) -> float:
    """Return images/s of a job."""
    if job.startswith("bare"):  # loads nothing while it is timed, so it tells its seconds an image
        return 1 / seconds([sys.executable, "-W", "ignore", "-c", OURS, job, model, str(few), ""])
    spent = []
    for images in (few, many):
        with tempfile.TemporaryDirectory(prefix="vectors-") as out:
            if job == "clip-retrieval":
                line = [clip_retrieval, "-c", THEIRS, model, str(images), out]
            else:
                line = [sys.executable, "-W", "ignore", "-c", OURS, job, model, str(images), out]
            spent.append(seconds(line))
    count = len(list(many.iterdir())) - len(list(few.iterdir()))
    return count / (spent[1] - spent[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--clip-retrieval", help="Python of an environment with clip-retrieval")
    parser.add_argument("--few", type=int, default=64)
    parser.add_argument("--many", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    add_option(parser)
    args = parser.parse_args()
    figures = Figures("embed", seeds=[0])
    with tempfile.TemporaryDirectory(prefix="embed-") as name:
        folder = Path(name)
        model = str(make_model(folder / "clip"))
        few, many = copies(args.photos, folder / "few", args.few), copies(args.photos, folder / "many", args.many)
        jobs = ["bare", "ours", "bare float32", "ours float32", *(["clip-retrieval"] if args.clip_retrieval else [])]
        rates: dict[str, list[float]] = {job: [] for job in jobs}
        for turn in range(args.rounds):
            for job in jobs:
                rates[job].append(measured(job, args.clip_retrieval, model, few, many))
                print(f"round {turn + 1}: {job:16} {rates[job][-1]:8.1f} images/s", flush=True)
    middle = {job: statistics.median(found) for job, found in rates.items()}
    print(f"\n{'':16} {'images/s':>9} {'above bare':>11} {'x clip-retrieval':>17}")
    for job, rate in middle.items():
        bare = middle["bare float32" if "float32" in job or job == "clip-retrieval" else "bare"]
        times = f"{rate / middle['clip-retrieval']:17.2f}" if args.clip_retrieval else ""
        print(f"{job:16} {rate:9.1f} {100 * (bare / rate - 1):9.1f} % {times}")
        key = job.replace(" ", "_").replace("-", "_")
        rival = job if job == "clip-retrieval" else ""
        figures.add(f"{key}.images_per_s", rate, "images/s", n=args.rounds, rival=rival)
        figures.add(f"{key}.more_time_than_bare", bare / rate - 1, "share", n=args.rounds, rival=rival)
        if args.clip_retrieval:
            figures.add(f"{key}.times", rate / middle["clip-retrieval"], "times", n=args.rounds, rival="clip-retrieval")
    figures.write(args.results)


if __name__ == "__main__":
    main()
