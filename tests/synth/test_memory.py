"""Where memory ends, half as many are drawn at once and that is said; what was drawn stays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from synth_models import fast, fill, new_work, save_diffusion

from tilth.engine.work import Work
from tilth.errors import ModelError
from tilth.events import Events
from tilth.synth.draw.memory import settle
from tilth.synth.draw.pipelines import Studio
from tilth.synth.draw.settings import Drawing, Memory

BLOCKS: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
EACH: tuple[Literal["off", "on"], ...] = ("off", "on")
PROMPTS = ["a red knife", "a blue bottle", "a pink pill", "a green knife", "a red pill"]
SEEDS = [5, 6, 7, 8, 9]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_diffusion(tmp_path_factory.mktemp("models") / "diffusion")


def small(studio: Studio, most: int, error: Callable[[], BaseException]) -> list[int]:
    """Let a studio have memory for so many images at once; return how many were tried each time."""
    tried: list[int] = []

    def hook(_: Any, given: tuple[Any, ...]) -> None:
        images = len(given[0]) // 2  # with and without guidance
        if not tried or tried[-1] != images:
            tried.append(images)
        if images > most:
            raise error()

    studio.pipeline.unet.register_forward_pre_hook(hook)
    return tried


ERRORS = [
    MemoryError,
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
    ),
]


@pytest.mark.parametrize("error", ERRORS, ids=["python", "gpu", "cpu"])
def test_a_batch_that_memory_has_no_room_for_is_halved_and_the_images_stay_theirs(model: Path, error: Any) -> None:
    whole = Studio(str(model), device="cpu").from_text(PROMPTS, SEEDS, Drawing(steps=2))
    said: list[str] = []
    studio = Studio(str(model), device="cpu", tell=said.append)
    tried = small(studio, 2, error)
    drawn = studio.from_text(PROMPTS, SEEDS, Drawing(steps=2))
    assert tried == [5, 2, 1]
    assert said == ["no memory for 5 images of 32 x 32 pixels at once; goes on with 2"]
    for a, b in zip(whole, drawn, strict=True):
        assert np.abs(a.astype(int) - b).mean() < 1  # of 255: the sums of a batch are taken in another order
    studio.from_text(PROMPTS[:4], SEEDS[:4], Drawing(steps=2))
    assert tried[-1] == 2, "it is not tried again"


def test_no_room_for_a_single_image_is_one_line_and_other_errors_are_their_own(model: Path) -> None:
    studio = Studio(str(model), device="cpu")
    small(studio, 0, MemoryError)
    with pytest.raises(
        ModelError, match=r"there is no memory for a single image of 32 x 32 pixels; draw smaller ones, or set memory"
    ):
        studio.from_text(PROMPTS[:2], SEEDS[:2], Drawing(steps=2))
    odd = Studio(str(model), device="cpu")
    small(odd, 0, lambda: RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        odd.from_text(PROMPTS[:2], SEEDS[:2], Drawing(steps=2))


def ids(work: Work) -> list[str]:
    return [s.id for s in work.dataset.samples() if s.made]


def test_a_step_goes_on_with_half_a_batch_says_so_and_makes_all_images(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = new_work(tmp_path)
    fill(work)
    work.events = Events(tmp_path / "events.jsonl")
    call = Studio._call

    def full(self: Studio, pipeline: Any, drawing: Any, told: Any, extra: Any) -> Any:
        if len(told["prompt"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return call(self, pipeline, drawing, told, extra)

    monkeypatch.setattr(Studio, "_call", full)
    facts = fast(model, count=12).run(work)
    work.events.close()
    assert (facts["made"], facts["failed"], facts["drawn_at_once"]) == (12, 0, 2)
    assert "no memory for 4 images of 32 x 32 pixels at once; goes on with 2" in (tmp_path / "events.jsonl").read_text()
    assert len(set(ids(work))) == 12


def test_a_full_disk_ends_the_step_and_what_was_written_is_not_drawn_again(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilth.data.table import Table

    work, whole = new_work(tmp_path / "full"), new_work(tmp_path / "whole")
    for each in (work, whole):
        fill(each)
    append, written = Table.append, 0

    def full(self: Table, rows: Any) -> None:
        nonlocal written
        written += 1
        if written == 3:
            raise OSError(28, "No space left on device")
        append(self, rows)

    step = fast(model, count=16)
    with monkeypatch.context() as patch:
        patch.setattr(Table, "append", full)
        with pytest.raises(OSError, match="No space left"):
            step.run(work)
    drawn: list[int] = []
    draw = Studio.from_text

    def counting(self: Studio, prompts: Any, seeds: Any, *rest: Any) -> Any:
        drawn.extend(seeds)
        return draw(self, prompts, seeds, *rest)

    monkeypatch.setattr(Studio, "from_text", counting)
    assert step.run(work)["made"] == 16
    assert 0 < len(drawn) < 16
    step.run(whole)
    assert ids(work) == ids(whole)


def test_the_autoencoder_works_in_parts_where_that_saves_much_or_is_asked_for(model: Path) -> None:
    pipeline = Studio(str(model), device="cpu").pipeline
    large = AutoencoderKL(block_out_channels=(16, 16), norm_num_groups=8, latent_channels=4, **BLOCKS)
    small = pipeline.vae

    def parts(memory: Memory, size_wh: tuple[int, int], batch: int, vae: Any = large) -> tuple[bool, bool]:
        pipeline.vae = vae
        vae.disable_slicing()
        vae.disable_tiling()
        settle(pipeline, memory, "cpu", size_wh, batch)
        return vae.use_slicing, vae.use_tiling

    assert parts(Memory(), (64, 64), 16) == (False, False)
    assert parts(Memory(), (512, 512), 16) == (True, False)
    assert parts(Memory(), (2048, 1536), 1) == (False, True)
    assert parts(Memory(tiling="off"), (2048, 1536), 16) == (False, False)
    assert parts(Memory(tiling="on"), (64, 64), 1) == (True, True)
    assert parts(Memory(tiling="on"), (64, 64), 1, small) == (True, False), "it would not count its tiles right"


def test_an_image_decoded_alone_is_the_same(model: Path) -> None:
    plain, sliced = (
        Studio(str(model), memory=Memory(tiling=each), device="cpu").from_text(PROMPTS[:2], SEEDS[:2], Drawing(steps=2))
        for each in EACH
    )
    assert np.abs(np.stack(plain).astype(int) - np.stack(sliced)).mean() < 1  # type: ignore[arg-type]
