"""How fast the step `generate` draws, beside the loop that diffusers' pages show, and how near its images are to that loop's.

    python benchmarks/generation.py

The loop loads `DiffusionPipeline.from_pretrained(model)` and calls it with one prompt after the other, all settings its own, float32 and
guidance 7.5 among them, but for the steps: 10 and not 50, so that more rounds can be taken. Ours is the `Studio` that the step draws
with, with the same steps and guidance, its batch and what it does by itself: bfloat16 by autocast where the processor computes in it.
Both draw the same prompts from the same seeds, in one process with as many threads, and take turns. `speedup` is the median of the
rounds' ratios, `speedup_processor` the ratio of the processor time in all, which others on the machine change less, and `psnr` is of the
worst image; each is of the model for which it is the least.

`starter` is the diffusion model that comes with Tilth. `sd15` has the shape of Stable Diffusion 1.5, its blocks, the widths of its heads
and its scheduler, a quarter as wide, on images of 256 pixels, with random weights: speed does not ask what they are, and an image of
noise is as good to compare.
"""

import argparse
import importlib.metadata
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import full_size_drawing as full
import numpy as np
from figures import Figures, add_option

from tilth import models
from tilth.images import Image
from tilth.synth.draw.pipelines import Studio
from tilth.synth.draw.settings import Drawing

SEED = 0
STEPS, GUIDANCE = 10, 7.5
PROMPTS = [
    f"a {colour} {thing} {place}, {style} style"
    for colour, place in (("red", "on green grass"), ("blue", "on a wooden table"))
    for thing in ("knife", "bottle", "pill", "dice")
    for style in ("photo", "neon")
]


def write_sd15(folder: Path) -> Path:
    """Write a checkpoint of the shape of Stable Diffusion 1.5, a quarter as wide."""
    import diffusers as df
    import transformers as tf

    wide, narrow = (80, 160, 320, 320), (32, 64, 128, 128)
    full.save(
        full.made(
            df.UNet2DConditionModel,
            sample_size=32,
            cross_attention_dim=192,
            attention_head_dim=2,
            norm_num_groups=16,
            block_out_channels=wide,
        ),
        folder / "unet",
    )
    vae = full.made(
        df.AutoencoderKL,
        sample_size=256,
        block_out_channels=narrow,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        scaling_factor=0.18215,
    )
    import torch

    torch.nn.init.normal_(vae.decoder.conv_out.weight, std=0.05)  # untrained it would answer with one tone
    full.save(vae, folder / "vae")
    small = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 12, "num_attention_heads": 4}
    full.save(full.made(tf.CLIPTextModel, full.text_config(**small)), folder / "text_encoder")
    full.write_tokenizer(folder / "tokenizer")
    full.made(df.PNDMScheduler, skip_prk_steps=True, **full.NOISE).save_pretrained(folder / "scheduler")
    full.index(
        folder,
        "StableDiffusionPipeline",
        feature_extractor=(None, None),  # type: ignore[arg-type]
        safety_checker=(None, None),  # type: ignore[arg-type]
        scheduler=("diffusers", "PNDMScheduler"),
        text_encoder=("transformers", "CLIPTextModel"),
        tokenizer=("transformers", "CLIPTokenizer"),
        unet=("diffusers", "UNet2DConditionModel"),
        vae=("diffusers", "AutoencoderKL"),
    )
    return folder


def loop(model: str, prompts: Sequence[str]) -> Callable[[], list[Image]]:
    """Return the loop that diffusers' pages show."""
    import torch
    from diffusers import DiffusionPipeline

    pipeline: Any = DiffusionPipeline.from_pretrained(models.locate(model))
    pipeline.set_progress_bar_config(disable=True)

    def draw() -> list[Image]:
        images = [
            pipeline(
                prompt, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(seed), output_type="np"
            ).images[0]
            for seed, prompt in enumerate(prompts)
        ]
        return [(image * 255).round().astype(np.uint8) for image in images]

    return draw


def psnr(a: Image, b: Image) -> float:
    """Return the peak signal-to-noise ratio of two images, in dB; at most 99, for equal ones."""
    error = float(((a.astype(float) - b) ** 2).mean())
    return min(99.0, 10 * np.log10(255**2 / error)) if error else 99.0


def measured(figures: Figures, name: str, model: str, rounds: int, prompts: Sequence[str]) -> None:
    """Let both take turns with a model; note what comes out under a name."""
    drawing, seeds = Drawing(steps=STEPS, guidance=GUIDANCE), range(len(prompts))
    studio = Studio(model, drawing=drawing, device="cpu")

    def ours() -> list[Image]:
        drawn: list[Any] = []
        for start in range(0, len(prompts), drawing.batch_size):
            part = slice(start, start + drawing.batch_size)
            drawn += studio.from_text(prompts[part], seeds[part], drawing)
        return drawn

    jobs = {"loop": loop(model, prompts), "ours": ours}
    taken: dict[str, list[float]] = {job: [] for job in jobs}
    worked, images = dict.fromkeys(jobs, 0.0), dict[str, list[Image]]()
    for turn in range(rounds + 1):
        for job, draw in jobs.items():
            began, used = time.perf_counter(), time.process_time()
            images[job] = draw()
            if turn:  # the first is to get warm
                taken[job].append(time.perf_counter() - began)
                worked[job] += time.process_time() - used
        print(name, turn, {job: round(each[-1], 2) for job, each in taken.items() if each}, worked, flush=True)
    rival = f"diffusers {importlib.metadata.version('diffusers')}, one prompt a call, float32"
    ratios = np.array(taken["loop"]) / np.array(taken["ours"])
    drawn = np.random.default_rng(SEED).integers(0, rounds, (1000, rounds))
    interval = [*map(float, np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5]))]
    figures.add(f"{name}.speedup", float(np.median(ratios)), "times", ci95=interval, n=rounds, rival=rival)
    figures.add(f"{name}.speedup_processor", worked["loop"] / worked["ours"], "times", n=rounds, rival=rival)
    for job in jobs:
        figures.add(f"{name}.images_s.{job}", len(prompts) / float(np.median(taken[job])), "images/s", n=rounds)
    near = [psnr(a, b) for a, b in zip(images["loop"], images["ours"], strict=True)]
    figures.add(f"{name}.psnr", min(near), "dB", n=len(prompts), rival=rival)
    figures.add(f"{name}.psnr_mean", float(np.mean(near)), "dB", n=len(prompts), rival=rival)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--images", type=int, default=len(PROMPTS), help="of the starter's model; of the other a quarter"
    )
    add_option(parser)
    args = parser.parse_args()
    figures = Figures("generation", seeds=[SEED])
    with tempfile.TemporaryDirectory() as work:
        measured(figures, "starter", "starter:diffusion", args.rounds, PROMPTS[: args.images])
        few = PROMPTS[: max(2, args.images // 4)]
        measured(figures, "sd15", str(write_sd15(Path(work) / "sd15")), args.rounds, few)
    names = ("starter", "sd15")
    figures.add("images", args.images, "")
    for key, unit in (("speedup", "times"), ("speedup_processor", "times"), ("psnr", "dB")):
        figures.add(key, min(figures.value(f"{name}.{key}") for name in names), unit, n=args.rounds)
    print({key: figures.value(key) for key in ("speedup", "psnr")})
    figures.write(args.results)


if __name__ == "__main__":
    main()
