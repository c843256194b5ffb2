"""Every family of encoders gives the vectors of its own model, and BLIP-2 the same ones whichever library runs it."""

import io
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mining_parts import random_retrieval_model, saved, scene, scenes
from PIL import Image as PilImage

from tilth import models
from tilth.encoders.blip2 import Blip2
from tilth.encoders.families import open_encoder
from tilth.encoders.inputs import Inputs
from tilth.encoders.lavis import LavisHeads, pack, unpack
from tilth.errors import InputError, MissingExtra, ModelError
from tilth.extras import python_of
from tilth.images import decode

TEXTS = ["a knife", "a", "a red blade and a blue cup on a wooden table"]


@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2", "dinov3"])
def test_a_model_of_one_vector_gives_the_vectors_of_its_own_class(tmp_path: Path, family: str) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    encoder = open_encoder(str(saved(family, tmp_path)), "cpu")
    images = scenes(3)
    found = encoder.images(images)
    assert found.shape == (3, 1, encoder.width)
    inputs = AutoImageProcessor.from_pretrained(tmp_path)(images=[np.array(i) for i in images], return_tensors="pt")
    theirs = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        out = theirs.vision_model(**inputs).pooler_output if encoder.reads else theirs(**inputs).pooler_output
        out = theirs.visual_projection(out) if family == "clip" else out
    expected = torch.nn.functional.normalize(out, dim=-1).numpy()
    assert np.abs(expected[0] - expected[1]).max() > 0.01, "the images must differ for this test to mean anything"
    np.testing.assert_allclose(found[:, 0], expected, atol=2e-2)  # bfloat16 products
    assert encoder.match(images, TEXTS).tolist() == np.full((3, 3), 0.5).tolist()


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_texts_do_not_depend_on_their_neighbours(tmp_path: Path, family: str) -> None:
    encoder = open_encoder(str(saved(family, tmp_path)), "cpu")
    together = encoder.texts(TEXTS)
    assert together.shape == (3, encoder.width)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together, np.concatenate([encoder.texts([t]) for t in TEXTS]), atol=1e-5)


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="the library is here")
@pytest.mark.parametrize("named", ["BertTokenizer", "SiglipTokenizer"])
def test_siglip_reads_texts_as_it_was_trained_without_a_library_of_its_own(tmp_path: Path, named: str) -> None:
    """Its tokenizer's class wants SentencePiece; it was trained on lower case without marks, and no mask hides what is filled up."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    saved("siglip", tmp_path)
    tokens = AutoTokenizer.from_pretrained(tmp_path)(
        "a knife", padding="max_length", max_length=20, return_tensors="pt"
    )
    with torch.no_grad():
        theirs = AutoModel.from_pretrained(tmp_path).eval().get_text_features(input_ids=tokens.input_ids).pooler_output
    told = tmp_path / "tokenizer_config.json"
    told.write_text(json.dumps({**json.loads(told.read_text()), "tokenizer_class": named}))
    found = open_encoder(str(tmp_path), "cpu").texts(["a knife", "A  Knife!"])
    expected = torch.nn.functional.normalize(theirs, dim=-1)[0].numpy()
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert np.allclose(found[1], expected, atol=1e-5) == (named == "SiglipTokenizer")


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="the library is here")
def test_a_tokenizer_that_only_a_missing_library_reads_is_one_line(tmp_path: Path) -> None:
    told = saved("siglip", tmp_path) / "tokenizer_config.json"
    told.write_text(json.dumps({**json.loads(told.read_text()), "tokenizer_class": "SiglipTokenizer"}))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(MissingExtra, match="its tokenizer needs a library: pip install sentencepiece"):
        open_encoder(str(tmp_path), "cpu")


def test_a_model_without_words_says_how_to_ask_it(tmp_path: Path) -> None:
    encoder = open_encoder(str(saved("dinov2", tmp_path)), "cpu")
    assert not encoder.reads
    with pytest.raises(InputError, match="knows no words; ask with example images"):
        encoder.texts(["a knife"])


# what goes in


def processors() -> dict[str, Any]:
    import transformers as tf

    exact, shorter = {"height": 64, "width": 64}, {"shortest_edge": 72}
    return {
        "squashed": tf.BlipImageProcessor(size=exact),
        "cropped to its size": tf.CLIPImageProcessor(size=shorter, crop_size={"height": 72, "width": 72}),
        "cropped further": tf.BitImageProcessor(size=shorter, crop_size={"height": 64, "width": 64}),
        "not resized": tf.CLIPImageProcessor(do_resize=False, crop_size={"height": 64, "width": 64}),
    }


@pytest.mark.parametrize("name", ["squashed", "cropped to its size", "cropped further", "not resized"])
@pytest.mark.parametrize("wh", [(500, 360), (360, 500), (80, 73)])
def test_a_small_decoding_gives_what_the_whole_image_gives(name: str, wh: tuple[int, int]) -> None:
    processor = processors()[name]
    for index in range(4):
        out = io.BytesIO()
        PilImage.fromarray(scene(index, 512).image).crop((0, 0, *wh)).save(out, "JPEG", quality=95)
        ready = Inputs(processor).load(out.getvalue())
        small, whole = (
            np.asarray(processor(images=[image], return_tensors="np")["pixel_values"][0])
            for image in (ready, decode(out.getvalue()))
        )
        assert small.shape == whole.shape
        assert np.abs(small - whole).mean() < (0.06 if name != "not resized" else 1e-6)
        if name in ("squashed", "cropped to its size") and min(wh) > 100:
            assert ready.shape[:2] == small.shape[1:], "the processor has nothing left to resize"


def test_vectors_of_small_decodings_are_those_of_the_whole_images() -> None:
    encoder = open_encoder("starter:retrieval", "cpu")
    files = []
    for index in range(12):
        out = io.BytesIO()
        PilImage.fromarray(scene(index, 640).image).save(out, "JPEG", quality=90)
        files.append(out.getvalue())
    small = encoder.images([encoder.inputs.load(data) for data in files]).astype(np.float32)
    whole = encoder.images([decode(data) for data in files]).astype(np.float32)
    assert (small * whole).sum(-1).min() > 0.99
    assert (small * whole).sum(-1).mean() > 0.999


# LAVIS


def _lavis() -> str:
    try:
        return str(python_of("lavis"))
    except InputError as error:
        return f"missing: {error}"


needs_lavis = pytest.mark.skipif(_lavis().startswith("missing"), reason=_lavis())


def test_a_missing_environment_is_named_with_the_command_that_makes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TILTH_LAVIS", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"lavis is not installed .*run: tilth env lavis"):
        open_encoder("starter:retrieval", "cpu", "lavis")


def test_lavis_runs_blip2_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the backend lavis runs BLIP-2, this is clip"):
        open_encoder(str(saved("clip", tmp_path)), "cpu", "lavis")


def test_messages_come_back_as_they_were() -> None:
    arrays = {
        "pixels": np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32),
        "ids": np.arange(6)[None],
    }
    data = pack("match", arrays)
    assert int.from_bytes(data[:8], "little") == len(data) - 8
    verb, back = unpack(data[8:])
    assert verb == "match"
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
    assert unpack(pack("ready", {})[8:]) == ("ready", {})


@needs_lavis
@pytest.mark.parametrize("model", ["starter:retrieval", "random"])
def test_lavis_and_transformers_agree_on_the_same_weights(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "precision", lambda _: "float32")
    name = model if model != "random" else str(random_retrieval_model(tmp_path))
    ours, theirs = Blip2(name, "cpu"), Blip2(name, "cpu", "lavis")
    images = scenes(4)
    assert (ours.queries, ours.width, ours.digest) == (theirs.queries, theirs.width, theirs.digest)
    np.testing.assert_allclose(theirs.images(images), ours.images(images), atol=1e-3)  # kept in float16
    np.testing.assert_allclose(theirs.texts(TEXTS), ours.texts(TEXTS), atol=1e-5)
    np.testing.assert_allclose(theirs.match(images, TEXTS), ours.match(images, TEXTS), atol=1e-4)


@needs_lavis
def test_a_worker_that_dies_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    heads = LavisHeads(models.locate("starter:retrieval"), "cpu")
    heads._process.kill()
    with pytest.raises(ModelError, match="lavis: texts: the worker ended with -9"):
        heads.texts(np.ones((1, 3), np.int64), np.ones((1, 3), np.int64))


@needs_lavis
def test_a_wrong_request_is_reported_and_the_worker_lives_on() -> None:
    heads = LavisHeads(models.locate("starter:retrieval"), "cpu")
    with pytest.raises(ModelError, match="lavis: texts: IndexError"):
        heads.texts(np.full((1, 3), 10**6), np.ones((1, 3), np.int64))
    assert heads.texts(np.ones((1, 3), np.int64), np.ones((1, 3), np.int64)).shape == (1, 96)
    assert os.path.basename(str(heads._process.args[0])) == "python"  # type: ignore[index]
