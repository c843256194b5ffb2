"""A speech model that is tuned: what learns and what does not, what costs nothing, what it leaves, and what is told of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import POLICY
from tones import tone_folder

from tilth.annotate.sounds.importing import ImportSound
from tilth.claims import Claim, resolve
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.errors import InputError, ModelError
from tilth.events import Events
from tilth.policy import load_policy
from tilth.train.speech.body import BESIDE, Listener
from tilth.train.speech.clips import Clips, labels_of
from tilth.train.speech.learning import TrainSpeech, _loss, open_listener
from tilth.train.speech.measuring import EvaluateSound
from tilth.train.speech.settings import Tuning

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
WHISPER = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_source_positions": 50, "vocab_size": 10, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of each class, not trained."""
    import transformers as t

    folder = tmp_path_factory.mktemp("bodies")
    torch.manual_seed(0)
    for kind, made in (
        ("hubert", t.HubertModel(t.HubertConfig(**SMALL))),
        ("wavlm", t.WavLMModel(t.WavLMConfig(**SMALL))),
        ("wav2vec2", t.Wav2Vec2Model(t.Wav2Vec2Config(**SMALL))),
        ("whisper", t.WhisperModel(t.WhisperConfig(**WHISPER))),
    ):
        made.save_pretrained(folder / kind)
    t.WhisperFeatureExtractor(chunk_length=1).save_pretrained(folder / "whisper")
    return folder


@pytest.mark.parametrize("kind", sorted(BESIDE))
def test_all_that_is_said_to_learn_does_and_the_body_stays(bodies: Path, kind: str) -> None:
    listener = Listener(bodies / kind, 3, Tuning())
    with torch.no_grad():
        for name, value in listener.named_parameters():
            if "lora_B" in name or name == "head.weight":
                torch.nn.init.normal_(value)  # they begin at zero, and what lies before them would feel nothing
    listener(0.1 * torch.randn(2, 8_000)).square().sum().backward()
    learned = listener.learned()
    assert [name for name, value in learned.items() if value.grad is None or not value.grad.abs().sum()] == []
    assert {"prompts", "weights", "head.weight"} < set(learned)
    assert any("lora_A" in name for name in learned)
    assert [name for name, value in listener.named_parameters() if name not in learned and value.grad is not None] == []


def test_each_part_is_switched_by_itself(bodies: Path) -> None:
    def names(**told: Any) -> set[str]:
        return set(Listener(bodies / "hubert", 3, Tuning(**told)).learned())

    bare = {"head.weight", "head.bias"}
    assert names(lora_rank=0, prompts=0, layers="last") == bare
    assert names(lora_rank=0, prompts=2, layers="last") - bare == {"prompts"}
    assert names(lora_rank=0, prompts=0) - bare == {"weights"}
    assert all("lora" in name for name in names(prompts=0, layers="last") - bare)
    assert not any("lora" in name for name in names(body="full"))


def test_what_was_learned_is_put_back_and_another_tuning_is_refused(bodies: Path) -> None:
    first, second = (Listener(bodies / "hubert", 3, Tuning(), seed).eval() for seed in (0, 1))
    torch.nn.init.normal_(first.head.weight)
    waves = 0.1 * torch.randn(2, 8_000)
    assert not torch.allclose(first(waves), second(waves))
    second.take({name: value.detach().clone() for name, value in first.learned().items()})
    assert torch.allclose(first(waves), second(waves), atol=1e-5)
    with pytest.raises(ModelError, match="learned beside"):
        Listener(bodies / "hubert", 3, Tuning(prompts=7)).take(first.learned())


def test_what_nobody_listened_for_costs_nothing(bodies: Path) -> None:
    listener = Listener(bodies / "hubert", 2, Tuning())
    waves = np.zeros((1, 8_000), np.float32)

    def clips(heard: list[bool]) -> Clips:
        return Clips(waves=np.zeros((1, 8_000), np.int16), heard=np.array([heard]), known=np.array([[True, False]]))

    here = np.array([0])
    assert (
        _loss(listener, waves, clips([True, True]), here).item()
        == _loss(listener, waves, clips([True, False]), here).item()
    )
    assert (
        _loss(listener, waves, clips([True, True]), here).item()
        != _loss(listener, waves, clips([False, True]), here).item()
    )


def test_of_a_long_sound_only_clips_are_labelled_in_which_the_event_is_known_to_lie() -> None:
    def of(*claims: Claim, clip: int) -> tuple[list[bool], list[bool]]:
        return labels_of(resolve(claims), ("siren", "bang"), clip, 3, 1.0)

    told = Claim(category="siren", span=(1.1, 1.5), source="human:a", asked=("siren",))
    somewhere = Claim(category="siren", source="human:a", asked=("siren",))
    assert [of(told, clip=n) for n in range(3)] == [
        ([False, False], [True, False]),  # from 0 s to 1 s
        ([True, False], [True, False]),
        ([True, False], [True, False]),
    ]
    assert of(somewhere, clip=0) == ([False, False], [False, False])


@pytest.fixture
def tones(tmp_path: Path) -> Iterator[Work]:
    """Labelled tones to learn from and sealed ones, under a policy of one category."""
    events = Events(tmp_path / "events.jsonl")
    policy = load_policy(POLICY.with_name("sounds.yaml"))
    policy = policy.with_categories([c for c in policy.categories if c.name == "siren"])
    work = Work(name="import", dataset=Dataset(tmp_path / "d"), policy=policy, folder=tmp_path / "files", events=events)
    for name, split in (("train", "train"), ("test", "test")):
        step = ImportSound(
            path=tone_folder(
                tmp_path / name, 16 if split == "train" else 12, split=split, first=100 * (split == "test")
            ),
            empty_means="confirmed_empty",
        )
        work.show_own(step)
        step.run(work)
        (tmp_path / name / "metadata.jsonl").rename(tmp_path / f"{name}.jsonl")
    yield work
    events.close()


def teach(work: Work, model: Path, **settings: Any) -> dict[str, Any]:
    step = TrainSpeech(**{"model": str(model), "seconds": 0.5, "steps": 30, "batch_size": 8, "lr": 0.05, **settings})
    work.name = "train.speech"
    work.show_own(step)
    return dict(step.run(work))


def test_a_high_tone_is_learned_from_the_few_that_people_labelled_and_measured_on_sealed_ones(
    tones: Work, bodies: Path
) -> None:
    facts = teach(tones, bodies / "hubert")
    assert facts["by_category"] == {"siren": 4}
    assert facts["adapter_mb"] < 1
    left = {path.name for path in tones.artifact("train.speech").iterdir()}
    assert left == {"adapter.safetensors", "speech.json"}
    tones.name = "evaluate.sound"
    step = EvaluateSound()
    tones.show_own(step)
    told = dict(step.run(tones))
    assert (told["n_sounds"], told["n_unsafe"]) == (12, 3)
    assert told["average_precision"]["mean"] > 0.9
    rows = [json.loads(line) for line in tones.artifact("evaluate.sound.sounds").read_text().splitlines()]
    assert {row["shows"] != [] for row in rows} == {True, False}


def test_an_adapter_beside_another_model_is_refused(tones: Work, bodies: Path, tmp_path: Path) -> None:
    import shutil

    place = tmp_path / "body"
    shutil.copytree(bodies / "hubert", place)
    teach(tones, place, steps=1)
    open_listener(tones.artifact("train.speech"), "cpu")
    shutil.copy(bodies / "wavlm" / "config.json", place / "config.json")
    with pytest.raises(ModelError, match="not the model any more"):
        open_listener(tones.artifact("train.speech"), "cpu")


def test_a_policy_that_hears_nothing_is_refused(work: Work) -> None:
    with pytest.raises(InputError, match="evidence: sound"):
        TrainSpeech().run(work)
