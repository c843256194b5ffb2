"""How fast, in how much memory and how well an adapter is taught: `train.lora` beside the loop of diffusers' own example.

    python benchmarks/lora.py
    python benchmarks/lora.py --only starter --seeds 1 --steps 20

Same model, images, captions, layers, rank, batch, rate, steps and seeds. The other loop is written here after diffusers'
`train_text_to_image_lora.py` with its defaults: float32, files decoded and cut by torchvision at each step, encoded by the autoencoder
and the text encoder at each step, AdamW at a constant rate, gradients cut at 1. Each training is a process of its own, so that its peak
of memory is its own, and the ways take turns. Told are steps a second of processor time on one thread, from the loaded model on, ours with
encoding all images once and judging held-back ones meanwhile, which the other does not do.

    sd15      a model in the shape of Stable Diffusion 1.5 with random weights, at 128 px: an eighth of the U-Net's channels, and a quarter
              of the autoencoder's, as small layers take more time than their arithmetic says; `vae_share` is the part of a forward pass
              that its autoencoder takes here, of the time, and in the large model, of the arithmetic
    starter   starter:diffusion, at 64 px, whose autoencoder is very small

Ways: `ours` in float32, as the other; `ours_auto` in the precision that the machine is given, bfloat16 where it has that; `theirs`.
The loss is the mean on eight other images, under the same noises at the same times for all; `before` is that of the model as it was.

Written to `lora.json`: `speedup` and `memory` (ours to theirs, sd15), and of each model `<model>.speedup`, `.loss`, `.peak_mb` and more.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, add_option
from loop import seeds_of

from tilth import models
from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.events import Events
from tilth.images import encode_png
from tilth.policy import load_policy
from tilth.samples import NewSample
from tilth.starter.diffusion.tokenizer import MAX_TOKENS, make_tokenizer
from tilth.starter.world.sets import scene_set
from tilth.synth.adapters.choosing import choose
from tilth.synth.adapters.denoiser import Denoiser
from tilth.synth.adapters.lesson import Lesson
from tilth.synth.adapters.lora import ATTENTION, adapter_of, save_adapter, with_adapter
from tilth.synth.adapters.settings import Captions, Layers, Learning, Prior, Slice
from tilth.synth.adapters.training import TrainLora
from tilth.synth.draw.fitting import fit_adapter

ROOT = Path(__file__).parents[1]
RIVAL = "diffusers' train_text_to_image_lora"
WAYS = ("ours", "ours_auto", "theirs")
IMAGES, OTHERS, RANK = 20, 8, 4
SIDE = {"sd15": 128, "starter": 64}
BATCH = {"sd15": 2, "starter": 8}
STEPS = {"sd15": 100, "starter": 100}
LR = {"sd15": 1e-3, "starter": 2e-3}
PART, CODER_PART = 8, 4  # of the channels of the large model
LARGE: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "sample_size": 64,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
CODER: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2,
    "latent_channels": 4, "scaling_factor": 0.18215,
}  # fmt: skip
CHOSEN = Slice(style="neon", where="source like 'neon/%'", val_share=0.05, mirror=False, aspect="square")
JUDGED = replace(CHOSEN, where="source like 'other/%'")
CAPTIONS = Captions(template="{content}, {style} style", bare="{style} style", drop=0.0)


def nets(part: int, coder_part: int) -> tuple[Any, Any]:
    """Return U-Net and autoencoder of Stable Diffusion 1.5, each with a part of its channels."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    groups = 32 if part == 1 else 8
    unet = UNet2DConditionModel(
        **LARGE,
        block_out_channels=tuple(n // part for n in (320, 640, 1280, 1280)),
        cross_attention_dim=768 // part,
        attention_head_dim=8,
        norm_num_groups=groups,
    )
    coder = AutoencoderKL(
        **CODER, block_out_channels=tuple(n // coder_part for n in (128, 256, 512, 512)), norm_num_groups=groups
    )
    return unet, coder


def vae_share() -> float:
    """Return which part of the arithmetic of a forward pass the autoencoder takes in the large model; no weights are made."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():
        unet, coder = nets(1, 1)
        with FlopCounterMode(display=False) as of_unet:
            unet(torch.zeros(1, 4, 64, 64), torch.zeros(1), torch.zeros(1, 77, 768))
        with FlopCounterMode(display=False) as of_coder:
            coder.encode(torch.zeros(1, 3, 512, 512))
    return of_coder.get_total_flops() / (of_unet.get_total_flops() + of_coder.get_total_flops())


def vae_share_of_time() -> float:
    """Return which part of the processor time of a forward pass the autoencoder takes in the miniature."""
    import torch

    torch.set_num_threads(1)
    unet, coder = nets(PART, CODER_PART)
    side, batch = SIDE["sd15"], BATCH["sd15"]
    noisy, times = torch.zeros(batch, 4, side // 8, side // 8), torch.zeros(batch)
    states, pixels = torch.zeros(batch, MAX_TOKENS, 768 // PART), torch.zeros(batch, 3, side, side)
    spent = {"unet": 0.0, "coder": 0.0}
    with torch.no_grad():
        for turn in range(6):
            for name, call in (("unet", lambda: unet(noisy, times, states)), ("coder", lambda: coder.encode(pixels))):
                began = time.process_time()
                call()
                spent[name] += time.process_time() - began if turn else 0.0  # the first makes plans
    return spent["coder"] / sum(spent.values())


def save_sd15(folder: Path) -> Path:
    """Write a model in the shape of Stable Diffusion 1.5 with random weights."""
    import torch
    from diffusers import DDPMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = make_tokenizer(folder.with_name("tokenizer"))
    width = 768 // PART
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=12, num_attention_heads=12,
            max_position_embeddings=MAX_TOKENS, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet, coder = nets(PART, CODER_PART)
    unet.register_to_config(sample_size=SIDE["sd15"] // 8)
    noise = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    StableDiffusionPipeline(
        vae=coder, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=noise, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def work_in(folder: Path, side: int, seed: int) -> Work:
    """Return a dataset of drawn neon things."""
    policy = load_policy(ROOT / "configs" / "policies" / "faithful.yaml")
    work = Work(
        name="train.lora", dataset=Dataset(folder / "dataset"), policy=policy, folder=folder / "files",
        events=Events(folder / "events.jsonl", stream=open(os.devnull, "w")), seed=seed, device="cpu",  # noqa: SIM115
    )  # fmt: skip
    work.folder.mkdir(parents=True)
    data = scene_set(folder / "sets", "train", IMAGES + OTHERS, side=side, styles=("neon",), single=True)
    known = {category.name for category in policy.pictured}
    samples = []
    for number, (image, scene) in enumerate(zip(data.images, data.scenes, strict=True)):
        kind = scene.things[0].kind
        box = (1.0, 1.0, side - 1.0, side - 1.0)
        claims = (Claim(category=kind, box_xyxy=box, source="human:a"),) if kind in known else ()
        origin = {"source": f"{'neon' if number < IMAGES else 'other'}/{number}.png", "licence": "CC0-1.0"}
        samples.append(
            NewSample(data=encode_png(np.array(image)), origin=origin, claims=claims, columns={"split": "train"})
        )
    work.add("drawn", samples)
    return work


def taught_by_ours(work: Work, model: str, name: str, steps: int, seed: int, loaded: Callable[[], None]) -> Path:
    """Teach by the step."""
    learning = Learning(steps=steps, batch_size=BATCH[name], lr=LR[name], patience=0, save_every=steps)
    layers = Layers(rank=RANK, targets=ATTENTION)
    encode = Lesson._encoded

    def encoded(*given: Any) -> Any:
        loaded()
        return encode(*given)

    Lesson._encoded = encoded  # type: ignore[method-assign]
    TrainLora(model=model, images=CHOSEN, captions=CAPTIONS, layers=layers, learning=learning).run(work)
    return work.artifact("train.lora")


def taught_by_theirs(work: Work, model: str, name: str, steps: int, seed: int, loaded: Callable[[], None]) -> Path:
    """Teach by diffusers' loop."""
    import io

    import torch
    from diffusers import DDPMScheduler, StableDiffusionPipeline
    from PIL import Image
    from torch.nn import functional
    from torchvision import transforms

    shown = [one for one in choose(work, CHOSEN, CAPTIONS, lambda text: True).shown if not one.val]
    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    loaded()
    noise_scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    vae, text_encoder, tokenizer = pipeline.vae, pipeline.text_encoder, pipeline.tokenizer
    unet = with_adapter(pipeline, rank=RANK, targets=ATTENTION, seed=seed)
    layers = [weight for weight in unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(layers, lr=LR[name], betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    cut = transforms.Compose(
        [
            transforms.Resize(SIDE[name], interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.CenterCrop(SIDE[name]),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )

    class Files(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(shown)

        def __getitem__(self, at: int) -> dict[str, Any]:
            image = Image.open(io.BytesIO(shown[at].sample.data)).convert("RGB")
            text = shown[at].captions[0]
            ids = tokenizer(
                text, max_length=tokenizer.model_max_length, padding="max_length", truncation=True, return_tensors="pt"
            )
            return {"pixel_values": cut(image), "input_ids": ids.input_ids[0]}

    order = torch.Generator().manual_seed(seed)
    loader = torch.utils.data.DataLoader(Files(), batch_size=BATCH[name], shuffle=True, generator=order, drop_last=True)
    torch.manual_seed(seed)
    unet.train()
    done = 0
    while done < steps:
        for batch in loader:
            coded = vae.encode(batch["pixel_values"])
            latents = (
                coded.latents if hasattr(coded, "latents") else coded.latent_dist.sample()
            ) * vae.config.scaling_factor
            noise = torch.randn_like(latents)
            times = torch.randint(0, noise_scheduler.config.num_train_timesteps, (len(latents),)).long()
            noisy = noise_scheduler.add_noise(latents, noise, times)
            states = text_encoder(batch["input_ids"], return_dict=False)[0]
            velocity = noise_scheduler.config.prediction_type == "v_prediction"
            target = noise_scheduler.get_velocity(latents, noise, times) if velocity else noise
            said = unet(noisy, times, states, return_dict=False)[0]
            loss = functional.mse_loss(said.float(), target.float(), reduction="mean")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(layers, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            if done == steps:
                break
    out = work.folder / "theirs"
    save_adapter(adapter_of(unet), out)
    return out


def other_loss(work: Work, model: str, name: str, adapter: Path) -> dict[str, float]:
    """Return the loss of a taught model on images that no way was shown, in float32."""
    shown = [replace(one, val=True) for one in choose(work, JUDGED, CAPTIONS, lambda text: True).shown]
    models.precision = lambda on: "float32"
    denoiser = Denoiser(model, "cpu")
    folder = work.folder / "judged"
    folder.mkdir()
    lesson = Lesson(
        denoiser, shown, folder, seed=0, images=JUDGED, captions=CAPTIONS, learning=Learning(batch_size=BATCH[name]),
        prior=Prior(), learns_text=False, advance=lambda n=1, /, **told: None,
    )  # fmt: skip
    before = lesson.val_loss()
    fit_adapter(denoiser.pipeline, "taught", str(adapter), model)
    return {"before": before, "loss": lesson.val_loss()}


def one(way: str, name: str, model: str, seed: int, steps: int) -> None:
    """Teach once, in this process, and print what it took."""
    if way == "ours":
        models.precision = lambda on: "float32"
    with tempfile.TemporaryDirectory() as folder:
        work = work_in(Path(folder), SIDE[name], seed)
        import diffusers  # noqa: F401  # what libraries take to load is no step
        import peft  # noqa: F401

        teach = taught_by_theirs if way == "theirs" else taught_by_ours
        began = {}

        def loaded() -> None:
            began.setdefault("core_s", time.process_time())

        adapter = teach(work, model, name, steps, seed, loaded)
        told = {"core_s": time.process_time() - began["core_s"]}
        told["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        told |= other_loss(work, model, name, adapter)
    print(json.dumps(told))


def measured(name: str, model: str, seeds: list[int], steps: int, ways: list[str]) -> dict[str, list[dict[str, float]]]:
    """Teach in each way with each seed, the ways in turn."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number, seed in enumerate(seeds):
        for way in (*ways[number % len(ways) :], *ways[: number % len(ways)]):
            command = [sys.executable, __file__, "--one", way, name, model, str(seed), str(steps)]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, seed, way, found[way][-1], flush=True)
    return found


def interval(values: list[float]) -> tuple[float, float] | None:
    """Return the 95 % t interval of a mean; None of one value."""
    from scipy.stats import t

    if len(values) < 2:
        return None
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def tell(figures: Figures, name: str, found: dict[str, list[dict[str, float]]], steps: int) -> None:
    """Note what was measured of one model."""
    theirs = found["theirs"]
    for way in found:
        rival = {"rival": RIVAL} if way == "theirs" else {}
        rates = [steps / told["core_s"] for told in found[way]]
        figures.add(f"{name}.{way}.steps_a_core_s", float(np.mean(rates)), "steps/s", n=len(rates), **rival)
        for key, unit in (("loss", ""), ("before", ""), ("peak_mb", "MB")):
            values = [told[key] for told in found[way]]
            figures.add(
                f"{name}.{way}.{key}", float(np.mean(values)), unit, ci95=interval(values), n=len(values), **rival
            )
    for way, suffix in ((way, way.removeprefix("ours")) for way in found if way != "theirs"):
        for key, what in (("core_s", "speedup"), ("peak_mb", "memory"), ("loss", "loss_ratio")):
            ratios = [
                b[key] / a[key] if what == "speedup" else a[key] / b[key]
                for a, b in zip(found[way], theirs, strict=True)
            ]
            for place in (f"{name}.{what}{suffix}", *([what] if name == "sd15" and not suffix else [])):
                figures.add(place, float(np.mean(ratios)), "", ci95=interval(ratios), n=len(ratios), rival=RIVAL)


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("sd15", "starter"))
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    add_option(parser)
    args = parser.parse_args()
    if args.one:
        way, name, model, seed, steps = args.one
        one(way, name, model, int(seed), int(steps))
        return
    seeds = seeds_of(args.seeds)
    figures = Figures("lora", seeds=seeds)
    with tempfile.TemporaryDirectory() as folder:
        for name in [args.only] if args.only else ["sd15", "starter"]:
            model = str(save_sd15(Path(folder) / "sd15")) if name == "sd15" else "starter:diffusion"
            steps = args.steps or STEPS[name]
            tell(figures, name, measured(name, model, seeds, steps, args.ways), steps)
            figures.add(f"{name}.steps", steps, "steps")
            figures.add(f"{name}.images", IMAGES, "images")
            figures.add(f"{name}.batch", BATCH[name], "images")
        if not args.only or args.only == "sd15":
            figures.add("sd15.vae_share", vae_share_of_time(), "share")
            figures.add("large.vae_share", vae_share(), "share")
    if args.only:
        figures.carry(args.results, but=(args.only,))
    print(figures.write(args.results))


if __name__ == "__main__":
    main()
