"""What is fetched of a hub repository: what loading it takes, once, and nothing that could run code."""

from pathlib import Path
from typing import Any

import pytest

from tilth import models

DRAWS = [  # of Stable Diffusion 1.5, as its repository lists them
    ".gitattributes",
    "README.md",
    "feature_extractor/preprocessor_config.json",
    "model_index.json",
    "safety_checker/config.json",
    "safety_checker/model.fp16.safetensors",
    "safety_checker/model.safetensors",
    "safety_checker/pytorch_model.bin",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "v1-5-pruned-emaonly.safetensors",
    "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]
PARTED = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
PARTED += ["model.safetensors.index.json", "tokenizer.json"]


def weights(names: list[str]) -> list[str]:
    return [name for name in models.needed(names) if name.endswith(".safetensors")]


def test_a_repository_of_parts_gives_each_part_once() -> None:
    assert weights(DRAWS) == [
        "safety_checker/model.safetensors",
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    rest = set(models.needed(DRAWS)) - set(weights(DRAWS))
    assert rest == {name for name in DRAWS if name.endswith((".json", ".txt"))}


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        (PARTED, []),
        ([*PARTED, "model.fp16.safetensors"], ["model.fp16.safetensors"]),
        (["config.json", "model.fp16.safetensors"], []),  # there is no other
        (["config.json", "adapter_v1.5.safetensors"], []),  # a dot that varies nothing
        (["config.json", "model.safetensors", "pytorch_model.bin", "run.py"], ["pytorch_model.bin", "run.py"]),
    ],
)
def test_of_other_repositories_only_what_is_there_twice_or_could_run_is_left_out(
    names: list[str], left_out: list[str]
) -> None:
    assert sorted(set(names) - set(models.needed(names))) == left_out


def test_a_download_asks_for_just_these_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fetched(repository: str, **told: Any) -> str:
        asked.update(told, repository=repository)
        (tmp_path / "model.safetensors").write_bytes(b"")
        return str(tmp_path)

    monkeypatch.setattr(models, "_hub_silent", lambda: "")
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda self, repository, revision: DRAWS)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    assert models.find("owner/draws@0123abc") == tmp_path
    assert asked["allow_patterns"] == models.needed(DRAWS)
    assert (asked["repository"], asked["revision"], asked["local_files_only"]) == ("owner/draws", "0123abc", False)
