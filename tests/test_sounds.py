"""Sounds: what is decoded, what is refused and why, and what makes two files one sound."""

import io
import struct

import numpy as np
import pytest
import soundfile
from tones import tone

from tilth.data.dataset import Dataset
from tilth.errors import InputError
from tilth.samples import IMAGE, SOUND, TEXT, NewSample, taken_by
from tilth.sounds import MAX_SECONDS, Sound, decode_sound, resampled, sound_id, wav_bytes


def written(samples: np.ndarray, rate: int = 16_000, **how: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **{"format": "WAV", **how})
    return file.getvalue()


def test_a_sound_is_known_by_its_samples_whatever_file_they_lie_in() -> None:
    one = tone(440)
    flac = written(np.asarray(one.samples * 2**31, np.int32), format="FLAC", subtype="PCM_24")
    assert {sound_id(decode_sound(data)) for data in (wav_bytes(one), flac)} == {sound_id(one)}
    assert sound_id(one) != sound_id(tone(441)) != sound_id(Sound(samples=tone(441).samples, rate=8_000))


def test_a_stereo_file_of_sixteen_bits_is_its_mean_and_stays_the_same_sound_when_it_is_written() -> None:
    both = np.array([[1, 2], [-3, -4], [32767, 32767]], np.int16)
    sound = decode_sound(written(both))
    assert np.array_equal(sound.samples * 2**15, [1.5, -3.5, 32767])
    assert sound_id(decode_sound(wav_bytes(sound))) == sound_id(sound)


@pytest.mark.parametrize("format_", ["OGG", "MP3"])
def test_compressed_sounds_are_decoded(format_: str) -> None:
    sound = decode_sound(written(tone(440).samples, format=format_))
    heard = np.abs(np.fft.rfft(sound.samples))
    assert abs(int(heard.argmax()) / sound.seconds - 440) < 5


def test_another_rate_keeps_the_tone() -> None:
    found = resampled(tone(440, rate=44_100), 16_000)
    assert len(found) == 8_000
    assert abs(int(np.abs(np.fft.rfft(found)).argmax()) * 2 - 440) < 5


LIES = bytearray(wav_bytes(tone(440)))
LIES[40:44] = struct.pack("<I", 2**31)  # the length that the header tells


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty file"),
        (b"RIFF....WAVE", "no sound that can be decoded"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "no sound that can be decoded"),
        (written(np.zeros(0, np.float32)), "without a single sample"),
        (written(np.array([0, np.nan], np.float32), subtype="FLOAT"), "no numbers"),
        (written(np.zeros((8, 9), np.float32)), "9 channels"),
        (written(np.zeros(8, np.float32), 1_000), "1,000 Hz"),
        (written(np.zeros(4_000 * MAX_SECONDS + 1, np.int16), 4_000), "longer than 300 s"),
        (written(tone(440).samples, format="FLAC")[:6_000], "damaged|no sound"),
        (written(tone(440).samples, format="AIFF"), "format AIFF"),
    ],
)
def test_what_is_no_sound_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(InputError, match=why):
        decode_sound(data)


def test_a_header_that_lies_about_its_length_gives_what_there_is() -> None:
    assert len(decode_sound(bytes(LIES)).samples) == 8_000


def test_a_dataset_keeps_sounds_beside_images_and_gives_them_to_no_step_that_did_not_ask(tmp_path: object) -> None:
    class ForImages:
        pass

    assert SOUND not in taken_by(ForImages())
    dataset = Dataset(tmp_path / "d")  # type: ignore[operator]
    new = NewSample(media=SOUND, data=wav_bytes(tone(440)), origin={"source": "a.wav"})
    id_, size = new.identify()
    assert (id_, size) == (sound_id(tone(440)), (8_000, 16_000))
    assert dataset.count() == 0
    for other in (IMAGE, TEXT):
        with pytest.raises(InputError):
            NewSample(media=other, data=new.data, origin={}).identify()
