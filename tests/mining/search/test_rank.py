"""Images are found by the maximum over their query vectors, with vectors that survive a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mining_parts import filled_store, new_store, random_retrieval_model, scenes
from noise import noise_image

from tilth.encoders.families import Encoder, max_similarity, open_encoder
from tilth.errors import ModelError, TooManyFailures
from tilth.events import Events
from tilth.mining.corpora.corpus import FolderCorpus
from tilth.mining.vectors.embed import embed
from tilth.mining.vectors.store import Store

TEXTS = ["a knife", "a", "a red blade and a blue cup on a wooden table, neon style", "a pen"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_retrieval_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return open_encoder(str(model), "cpu")


def keys_of(store: Store) -> list[str]:
    return [key for key, _ in store.items()]


# the model


def test_similarity_is_the_maximum_over_the_query_vectors_never_the_mean() -> None:
    one_hit = np.zeros((1, 8, 4), np.float16)
    one_hit[0, 0] = (1, 0, 0, 0)
    one_hit[0, 1:] = (0, -1, 0, 0)
    lukewarm = np.tile(np.array([0.5, 0.86, 0, 0], np.float16), (1, 8, 1))
    text = np.array([[1, 0, 0, 0]], np.float32)
    assert max_similarity(np.concatenate([one_hit, lukewarm]), text)[:, 0] == pytest.approx([1, 0.5])


def test_scores_are_those_of_the_model_itself(model: Path, encoder: Encoder) -> None:
    import torch
    from transformers import AutoProcessor, Blip2ForImageTextRetrieval

    theirs = Blip2ForImageTextRetrieval.from_pretrained(model, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(model)
    images = scenes(3)
    similar, match = max_similarity(encoder.images(images), encoder.texts(TEXTS)), encoder.match(images, TEXTS)
    for i, image in enumerate(images):
        for t, text in enumerate(TEXTS):
            inputs = processor(images=np.array(image), text=text, return_tensors="pt")
            with torch.no_grad():
                itc = theirs(**inputs).logits_per_image.item()
                itm = theirs(**inputs, use_image_text_matching_head=True).logits_per_image.softmax(1)[0, 1].item()
            # bfloat16 products and float16 storage
            assert similar[i, t] == pytest.approx(itc, abs=6e-3)
            assert match[i, t] == pytest.approx(itm, abs=6e-3)


def test_a_batch_gives_the_same_as_its_images_and_texts_one_by_one(encoder: Encoder) -> None:
    images = scenes(5) + scenes(2, side=70)  # of two sizes
    together = encoder.images(images)
    assert np.abs(together[0] - together[1]).max() > 0.01, "the images must differ for this test to mean anything"
    np.testing.assert_allclose(together, np.concatenate([encoder.images([i]) for i in images]), atol=2e-3)
    np.testing.assert_allclose(encoder.texts(TEXTS), np.concatenate([encoder.texts([t]) for t in TEXTS]), atol=1e-5)
    alone = [[encoder.match([i], [t])[0, 0] for t in TEXTS] for i in images]
    np.testing.assert_allclose(encoder.match(images, TEXTS), alone, atol=2e-3)


def test_a_model_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"is of one of the families blip-2, clip.*; this one is 'bert'"):
        open_encoder(str(tmp_path), "cpu")


# the store


def test_a_torn_write_is_cut_off_and_nothing_else(tmp_path: Path) -> None:
    store, vectors = filled_store(tmp_path, 130)
    with (tmp_path / "00001.vectors").open("ab") as stream:
        stream.write(b"half of a row")
    with (tmp_path / "00001.keys").open("ab") as stream:
        stream.write(b'["13')
    again = new_store(tmp_path)
    assert len(again) == len(store) == 130
    np.testing.assert_array_equal(again.take(np.arange(130)), vectors)
    again.append([("130", "s")], vectors[:1])
    assert keys_of(new_store(tmp_path)) == [str(i) for i in range(131)]


def test_vectors_of_another_model_are_refused(tmp_path: Path) -> None:
    filled_store(tmp_path, 10)
    with pytest.raises(ModelError, match=r"holds vectors of m \(d1\), not of m \(d2\)"):
        new_store(tmp_path, digest="d2")


EMBED = """
import sys
from pathlib import Path
from tilth.events import Events
from tilth.mining.corpora.corpus import FolderCorpus
from tilth.mining.vectors.embed import embed
from tilth.encoders.families import open_encoder
from tilth.mining.vectors.store import Store
encoder = open_encoder(sys.argv[1], "cpu")
about = {"model": "m", "digest": encoder.digest, "queries": encoder.queries, "width": encoder.width}
store = Store(Path(sys.argv[3]), **about, shard_rows=50)
embed(FolderCorpus(Path(sys.argv[2])), encoder, store, Events(), batch_size=2)
"""


def test_a_killed_embedding_goes_on_without_a_duplicate_or_a_gap(tmp_path: Path, model: Path, encoder: Encoder) -> None:
    corpus, folder = tmp_path / "corpus", tmp_path / "store"
    corpus.mkdir()
    for i in range(240):
        (corpus / f"{i:03d}.png").write_bytes(noise_image(i))
    command = [sys.executable, "-c", EMBED, str(model), str(corpus), str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while len(list(folder.glob("*.keys"))) < 2:  # 50 rows and more
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = Store(folder, model="m", digest=encoder.digest, queries=encoder.queries, width=encoder.width)
    survived = len(store)
    assert 50 <= survived < 240
    facts = embed(FolderCorpus(corpus), encoder, store, Events(), batch_size=2)
    assert facts["embedded"] == 240 - survived
    assert keys_of(store) == [f"{i:03d}.png" for i in range(240)]
    whole = Store(tmp_path / "whole", model="m", digest=encoder.digest, queries=encoder.queries, width=encoder.width)
    embed(FolderCorpus(corpus), encoder, whole, Events(), batch_size=64)
    np.testing.assert_allclose(store.take(np.arange(240)), whole.take(np.arange(240)), atol=2e-3)
    assert embed(FolderCorpus(corpus), encoder, store, Events())["embedded"] == 0


def corpus_with_corrupt_files(folder: Path, images: int, every: int) -> FolderCorpus:
    folder.mkdir()
    for i in range(images):
        data = noise_image(i, side=8)
        corrupt = (b"", data[: len(data) // 2], b"GIF89a" + data)[i % 3]
        (folder / f"{i:04d}.png").write_bytes(data if i % every else corrupt)
    return FolderCorpus(folder)


def test_a_hundred_corrupt_files_among_a_thousand_are_a_hundred_failures(tmp_path: Path, encoder: Encoder) -> None:
    corpus = corpus_with_corrupt_files(tmp_path / "corpus", 1000, 10)
    store = new_store(tmp_path / "store", encoder.queries, encoder.width, encoder.digest)
    facts = embed(corpus, encoder, store, Events())
    assert (facts["images"], facts["failed"]) == (900, 100)
    assert {key for key, _ in store.failures()} == {f"{i:04d}.png" for i in range(0, 1000, 10)}
    again = embed(corpus, encoder, store, Events())
    assert (again["embedded"], again["failed"]) == (0, 100)
    store.forgive()
    assert embed(corpus, encoder, store, Events())["failed"] == 100


def test_a_corpus_that_is_mostly_broken_stops_the_step(tmp_path: Path, encoder: Encoder) -> None:
    corpus = corpus_with_corrupt_files(tmp_path / "corpus", 128, 2)
    store = new_store(tmp_path / "store", encoder.queries, encoder.width, encoder.digest)
    with pytest.raises(TooManyFailures, match="32 of 64 images cannot be read"):
        embed(corpus, encoder, store, Events())


def test_a_changed_file_is_embedded_again(tmp_path: Path, encoder: Encoder) -> None:
    corpus = corpus_with_corrupt_files(tmp_path / "corpus", 20, 50)
    store = new_store(tmp_path / "store", encoder.queries, encoder.width, encoder.digest)
    embed(corpus, encoder, store, Events())
    (tmp_path / "corpus" / "0007.png").write_bytes(noise_image(77, side=9))
    assert embed(corpus, encoder, store, Events())["embedded"] == 1
