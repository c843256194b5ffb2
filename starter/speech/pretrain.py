"""Pre-train the miniature HuBERT on unlabelled clips: masked frames are to be told by the cluster of their sound.

Papers: https://arxiv.org/abs/2106.07447 (HuBERT), https://arxiv.org/abs/2110.13900 (WavLM: another clip is mixed in)
Differs: one round, over clusters of log-mel frames; four layers; a second of each clip.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import nn
from torch.nn import functional
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor
from transformers.audio_utils import mel_filter_bank

from tilth.engine.fit import fit
from tilth.sounds import Wave
from tilth.starter.speech.clips import clips
from tilth.starter.speech.voices import RATE

CLIPS, HELD_OUT, SEED = 1200, 96, 70_000  # the seed is one that no world has by default
CLUSTERS, STEPS, BATCH = 64, 900, 8
WIDTH, CROP = 128, 16_000  # of the states; samples of a clip that are learned from at once
WINDOW, HOP = 400, 320  # samples of a frame, as the convolutions see it
SPAN, MASKED = 10, 0.08  # frames that are masked together, and the share of frames at which that begins


def build() -> HubertModel:
    """Make the untrained miniature: a million parameters."""
    config = HubertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        conv_dim=(48,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
        apply_spec_augment=False,
        mask_time_prob=0.05,  # so that there is a learned frame that stands for what is masked
    )
    return HubertModel(config)


def log_mel(waves: torch.Tensor) -> torch.Tensor:
    """Return 40 log-mel values of each frame, less the clip's mean, `(n, frames, 40)`, of waves `(n, samples)`."""
    frames = waves.unfold(1, WINDOW, HOP) * torch.hann_window(WINDOW, device=waves.device)
    power = torch.fft.rfft(frames, 512).abs().square()
    bank = torch.tensor(mel_filter_bank(257, 40, 60.0, 7600.0, RATE), dtype=torch.float32, device=waves.device)
    told = (power @ bank + 1e-5).log()
    centred: torch.Tensor = told - told.mean(1, keepdim=True)
    return centred


def normal(waves: torch.Tensor) -> torch.Tensor:
    """Give each wave mean 0 and variance 1, as the feature extractor does."""
    return (waves - waves.mean(1, keepdim=True)) / torch.sqrt(waves.var(1, keepdim=True, unbiased=False) + 1e-7)


def _drawn(work: Path) -> tuple[Wave, Wave]:
    """Draw the clips once: those to learn from and those held out, `(n, samples)`."""
    path = work / "speech-clips.npy"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        waves = np.stack([wave for wave, _ in clips("corpus", CLIPS + HELD_OUT, SEED)])
        np.save(path, np.rint(waves * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16))
    whole = np.load(path).astype(np.float32) / 2**15
    return whole[HELD_OUT:], whole[:HELD_OUT]


def _spans(rng: np.random.Generator, n: int, frames: int) -> Any:
    begins = rng.random((n, frames)) < MASKED
    masked = np.zeros((n, frames), bool)
    for shift in range(SPAN):
        masked[:, shift:] |= begins[:, : frames - shift]
    return masked


def train(out: Path, work: Path, device: torch.device, steps: int | None) -> dict[str, float]:
    """Pre-train, save to `out/speech` in half precision, and return how often the cluster of a masked frame is told."""
    torch.manual_seed(0)
    learned, held_out = (torch.tensor(some, device=device) for some in _drawn(work))
    mels = torch.cat([log_mel(some) for some in learned.split(64)])
    means = MiniBatchKMeans(CLUSTERS, random_state=0, n_init=1, batch_size=4096)
    means.fit(mels.reshape(-1, mels.shape[-1])[:: max(1, mels.shape[0] * mels.shape[1] // 40_000)].cpu().numpy())
    centres = torch.tensor(means.cluster_centers_, dtype=torch.float32, device=device)
    near = lambda some: torch.cdist(log_mel(some), centres.expand(len(some), -1, -1)).argmin(2)  # noqa: E731
    body = build().to(device)
    both = nn.ModuleDict({"body": body, "head": nn.Linear(WIDTH, CLUSTERS, device=device)})

    def logits(waves: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        body.config.apply_spec_augment = True
        states = body(normal(waves), mask_time_indices=masked).last_hidden_state
        body.config.apply_spec_augment = False
        told: torch.Tensor = both["head"](states)
        return told

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((98, step))
        chosen = rng.integers(0, len(learned), BATCH)
        at, from_ = (int(each) for each in rng.integers(0, learned.shape[1] - CROP, 2))
        waves = learned[chosen, at : at + CROP]
        truth = near(waves)
        other = learned[rng.integers(0, len(learned), BATCH), from_ : from_ + CROP]
        loud = torch.tensor(
            rng.uniform(0, 0.7, (BATCH, 1)) * (rng.random((BATCH, 1)) < 0.4), dtype=torch.float32, device=device
        )
        masked = torch.tensor(_spans(rng, BATCH, truth.shape[1]), device=device)
        return functional.cross_entropy(logits(waves + loud * other, masked)[masked], truth[masked])

    @torch.no_grad()
    def told() -> float:
        masked = torch.tensor(_spans(np.random.default_rng(99), len(held_out), mels.shape[1]), device=device)
        return float((logits(held_out, masked).argmax(2) == near(held_out))[masked].float().mean())

    fit(
        "speech",
        both,
        loss_at,
        steps=steps or STEPS,
        lr=1.5e-3,
        work=work,
        warmup=60,
        flat=0.3,
        weight_decay=0.01,
        betas=(0.9, 0.98),
        save_every=150,
        watch=lambda step, shown: f"masked frames told {told():.3f}",
    )
    share = told()
    folder = out / "speech"
    body.half().save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True, return_attention_mask=False).save_pretrained(folder)
    return {"masked_frames_told": round(share, 4), "clusters": CLUSTERS}
