"""Sounds with labels: what a table says of them, what fails and stays, and that an export is taken in as it was."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import POLICY
from tones import tone, tone_folder

from tilth.annotate.sounds.importing import ImportSound
from tilth.annotate.sounds.writing import FORMATS, export_sounds
from tilth.annotate.texts.importing import ImportText
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.events import Events
from tilth.mining.cleaning.split import Split
from tilth.policy import load_policy
from tilth.samples import Sample
from tilth.sounds import sound_id, wav_bytes


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[Work]:
    """An empty dataset under the policy of sounds."""
    events = Events(tmp_path / "events.jsonl")
    policy = load_policy(POLICY.with_name("sounds.yaml"))
    yield Work(name="import", dataset=Dataset(tmp_path / "d"), policy=policy, folder=tmp_path / "files", events=events)
    events.close()


def run(work: Work, step: Any) -> dict[str, Any]:
    work.show_own(step)
    return dict(step.run(work))


def said(sample: Sample) -> list[tuple[str | None, tuple[float, float] | None]]:
    return [
        (label.category, label.span and (round(label.span[0], 4), round(label.span[1], 4)))
        for label in sample.truth.labels
    ]


def test_a_table_tells_what_is_heard_and_when_and_what_it_does_not_name_is_unlabelled(
    heard: Work, tmp_path: Path
) -> None:
    folder = tone_folder(tmp_path / "set", 4)
    (folder / "more").mkdir()
    (folder / "more" / "x.wav").write_bytes(wav_bytes(tone(777)))
    facts = run(heard, ImportSound(path=folder, empty_means="confirmed_empty", licence="CC0-1.0"))
    assert facts["by_state"] == {"reviewed": 1, "confirmed_empty": 3, "unlabelled": 1}
    one = next(heard.dataset.samples("state = 'reviewed'"))
    assert said(one) == [("siren", (0.1, 0.4))]
    assert one.id == sound_id(tone(3000, 0))
    assert one.size_wh == (8_000, 16_000)
    assert one.origin["licence"] == "CC0-1.0"


def test_what_cannot_be_heard_is_a_row_that_failed_with_the_reason(heard: Work, tmp_path: Path) -> None:
    folder = tone_folder(tmp_path / "set", 2)
    (folder / "broken.mp3").write_bytes(b"nothing")
    rows = [
        {"file_name": "../out.wav"},
        {"file_name": "absent.wav"},
        {"name": "0.wav"},
        {"file_name": "1.wav", "labels": [{"category": "siren", "start": 0.2, "end": 9}]},
    ]
    with (folder / "metadata.jsonl").open("a") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows))
    facts = run(heard, ImportSound(path=folder))
    why = " ".join(facts["failed_examples"])
    assert (facts["sounds"], facts["failed"]) == (2, 5)
    for told in ("leads out of the folder", "No such file", "no column that names the sound", "not within the 0.50 s"):
        assert told in why, told


def test_a_name_that_the_policy_lacks_never_makes_a_sound_empty(heard: Work, tmp_path: Path) -> None:
    folder = tone_folder(tmp_path / "set", 1)
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "0.wav", "labels": ["thunder"]}) + "\n")
    facts = run(heard, ImportSound(path=folder, empty_means="confirmed_empty"))
    assert facts["by_state"] == {"unlabelled": 1}
    assert facts["unknown_categories"] == {"thunder": 1}


@pytest.mark.parametrize("format_", FORMATS)
def test_an_export_is_taken_in_as_it_was(heard: Work, tmp_path: Path, format_: str) -> None:
    run(heard, ImportSound(path=tone_folder(tmp_path / "set", 8, split="val"), empty_means="confirmed_empty"))
    told = export_sounds(heard.dataset, tmp_path / "out", format_, say=print)
    assert (told["sounds"], told["splits"]) == (8, {"val": 8})
    again = Work(
        name="import", dataset=Dataset(tmp_path / "again"), policy=heard.policy, folder=tmp_path / "f", events=heard.events
    )  # fmt: skip
    run(again, ImportSound(path=tmp_path / "out", table="" if format_ == "audiofolder" else "validation.jsonl"))
    was, now = ({s.id: (str(s.state), s.split, said(s)) for s in w.dataset.samples()} for w in (heard, again))
    assert was == now
    with pytest.raises(InputError, match="is there already"):
        export_sounds(heard.dataset, tmp_path / "out", format_, say=print)


def test_datasets_opens_the_audiofolder(heard: Work, tmp_path: Path) -> None:
    pytest.importorskip("torchcodec", reason="datasets decodes sounds with torchcodec, which is no part of Tilth")
    import datasets

    run(heard, ImportSound(path=tone_folder(tmp_path / "set", 4), empty_means="confirmed_empty"))
    export_sounds(heard.dataset, tmp_path / "out", "audiofolder", say=print)
    opened = datasets.load_dataset("audiofolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))[
        "train"
    ]
    rows = opened.cast_column("audio", datasets.Audio(decode=False))
    assert sorted(len(row["labels"]) for row in rows) == [0, 0, 0, 1]


def test_speech_and_its_transcript_never_part(heard: Work, tmp_path: Path) -> None:
    folder = tone_folder(tmp_path / "set", 12)
    run(heard, ImportSound(path=folder, empty_means="confirmed_empty"))
    lines = [{"text": f"words of {n}", "of": sound_id(tone(3000 if n % 4 == 0 else 300, n))} for n in range(12)]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(heard, ImportText(path=tmp_path / "words.jsonl", parent="of"))
    run(heard, Split(val_share=0.5))
    splits = {sample.id: sample.split for sample in heard.dataset.samples()}
    texts = list(heard.dataset.samples("media = 'text'"))
    assert len(texts) == 12
    assert all(text.split == splits[str(text.origin["of"])] for text in texts)
    assert len(set(splits.values())) == 2
