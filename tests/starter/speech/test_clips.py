"""The world of sounds: each clip is the same whenever it is drawn, and holds what its truth says."""

import numpy as np
import pytest

from tilth.starter.speech.clips import CATEGORIES, RATE, SECONDS, draw_clip
from tilth.starter.speech.events import EVENTS
from tilth.starter.speech.voices import UNSEEN, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "espeak-ng is here")


def test_a_clip_is_drawn_the_same_again_and_holds_what_it_says() -> None:
    for index in range(0, 60, 13):
        wave, row = draw_clip("few", index, 3)
        assert np.array_equal(wave, draw_clip("few", index, 3)[0])
        assert len(wave) == SECONDS * RATE
        [label] = row["labels"] or [None]
        assert (label["category"] if label else "") == (CATEGORIES[index // 10] if index < 50 else "")
        assert not label or 0 <= label["start"] < label["end"] <= SECONDS


def test_hard_clips_are_loud_with_noise_and_have_speech_over_each_event_and_low_ones_have_unseen_voices() -> None:
    hard = [draw_clip("hard", index, 0)[1] for index in range(12)]
    assert all(row["snr_db"] <= 5 and row["room_s"] > 0 for row in hard)
    assert all(row["says"] for row in hard if row["event"] in EVENTS)
    assert all(draw_clip("low", index, 0)[1]["voice"] in ("", *UNSEEN) for index in range(6))
