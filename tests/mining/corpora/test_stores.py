"""A corpus in S3 has the rows of the same corpus on disk, costs few bytes, and is gone on with when the store is back."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lance
import numpy as np
import object_store
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mining_parts import new_store, random_retrieval_model
from noise import noise_image, tar
from object_store import CUT, DEATH, Bucket
from places import POLICY
from refusals import refusal

from tilth.encoders.families import Encoder, open_encoder
from tilth.engine.work import Work
from tilth.errors import InputError, Unavailable
from tilth.events import Events
from tilth.mining.corpora.corpus import Corpus
from tilth.mining.corpora.opening import open_corpus
from tilth.mining.corpora.places import PART_BYTES
from tilth.mining.search.mine import Mine
from tilth.mining.vectors.embed import embed

pytestmark = pytest.mark.timeout(120)
ABOUT = json.dumps({"license": "CC0-1.0", "url": "https://example.org/3"}).encode()


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with object_store.serving("pictures") as served:
        yield served


def upload(bucket: Bucket, folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            bucket.put(f"{folder.name}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def write_files(folder: Path) -> None:
    for name in ("b/2.png", "b/1.PNG", "a b+%&#ü.png", "b.png", ".git/x.png", "b/.hidden.png", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(noise_image(len(name)))


def write_archives(folder: Path) -> None:
    images = [(f"{n}.png", noise_image(n)) for n in range(4)]
    tar(folder / "1.tar", *images[:2], ("deep/x.txt", b"x"))
    tar(folder / "0.tar", *images[2:], ("3.json", ABOUT))


def write_tables(folder: Path) -> None:
    folder.mkdir()
    table = pa.table({"image": [noise_image(n) for n in range(6)], "license": ["CC0-1.0", None, "", "MIT", "x", "y"]})
    pq.write_table(table.slice(0, 4), folder / "a.parquet", row_group_size=2)
    pq.write_table(table.slice(4), folder / "b.parquet")


def write_table_of_paths(folder: Path) -> None:
    write_files(folder)
    pq.write_table(pa.table({"path": ["b/2.png", "b.png", "../secret.png", "gone.png"]}), folder / "0.parquet")


def write_lance(folder: Path) -> None:
    lance.write_dataset(pa.table({"image": [noise_image(n) for n in range(3)], "license": ["MIT"] * 3}), str(folder))


def read(corpus: Corpus, key: str) -> bytes | str:
    try:
        return corpus.read(key)
    except InputError as error:
        return str(error)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_files, "set"),
        (write_archives, "set"),
        (write_tables, "set"),
        (write_table_of_paths, "set"),
        (write_lance, "set.lance"),
    ],
)
def test_a_corpus_in_s3_has_the_rows_of_the_same_corpus_on_disk(
    tmp_path: Path, bucket: Bucket, write: object, name: str
) -> None:
    write(tmp_path / name)  # type: ignore[operator]
    upload(bucket, tmp_path / name)
    here, there = open_corpus(str(tmp_path / name)), open_corpus(bucket.url(name))
    keys = [item.key for item in here.items()]
    assert keys
    assert [item.key for item in there.items()] == keys
    assert [read(there, key) for key in keys] == [read(here, key) for key in keys]
    assert all(there.stamp(item.key) == item.stamp != "" for item in there.items())
    if write is write_files:  # a file does not say where it is from, an object does
        assert [there.about(key) for key in keys] == [{"url": bucket.url(f"set/{key}")} for key in keys]
    else:
        assert [there.about(key) for key in keys] == [here.about(key) for key in keys]


def test_one_object_is_a_corpus_and_an_empty_object_that_stands_for_a_folder_is_none(
    tmp_path: Path, bucket: Bucket
) -> None:
    write_archives(tmp_path / "set")
    upload(bucket, tmp_path / "set")
    archive = open_corpus(bucket.url("set/1.tar"))
    assert [read(archive, item.key) for item in archive.items()] == [noise_image(0), noise_image(1)]
    bucket.put("images/", b"")
    bucket.put("images/a.png", noise_image(5))
    assert [item.key for item in open_corpus(bucket.url("images")).items()] == ["a.png"]


def test_a_change_in_the_store_is_seen_at_once(bucket: Bucket) -> None:
    bucket.put("set/a.png", noise_image(1))
    corpus = open_corpus(bucket.url("set"))
    (first,) = corpus.items()
    bucket.put("set/a.png", noise_image(2))
    bucket.put("set/b.png", noise_image(3))
    assert corpus.stamp("a.png") != first.stamp
    assert [item.key for item in corpus.items()] == ["a.png", "b.png"]


def test_only_the_parts_that_are_needed_are_fetched(tmp_path: Path, bucket: Bucket) -> None:
    rng = np.random.default_rng(0)
    images = [rng.bytes(2 * PART_BYTES) for _ in range(4)]
    tar(tmp_path / "a.tar", *((f"{n}.png", data) for n, data in enumerate(images)), ("3.json", ABOUT))
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet", row_group_size=1, compression="none")
    for name in ("a.tar", "a.parquet"):
        bucket.put(f"{name}/{name}", (tmp_path / name).read_bytes())
    archive, rows = open_corpus(bucket.url("a.tar")), open_corpus(bucket.url("a.parquet"))
    bucket.sent.clear()
    items = list(archive.items())
    assert sum(each.size for each in bucket.sent) <= 5 * PART_BYTES, "what lies between headers stays there"
    bucket.sent.clear()
    assert archive.read(items[2].key) == images[2]
    assert [each.size for each in bucket.sent] == [len(images[2])]
    bucket.sent.clear()
    assert archive.about(items[3].key)["licence"] == "CC0-1.0"
    assert sum(each.size for each in bucket.sent) <= len(images[3]) + 2 * PART_BYTES
    bucket.sent.clear()
    (_, _, third, _) = [item.key for item in rows.items()]
    assert sum(each.size for each in bucket.sent) <= 2 * PART_BYTES, "only the end of a table says what is in it"
    bucket.sent.clear()
    assert rows.read(third) == images[2]
    assert sum(each.size for each in bucket.sent) <= len(images[2]) + 2 * PART_BYTES
    assert all(each.range.startswith("bytes=") for each in bucket.sent)


def said(error: pytest.ExceptionInfo[BaseException]) -> str:
    (line,) = str(error.value).splitlines()
    return line


@pytest.mark.parametrize("below", ["", "nothing-here"])
def test_a_bucket_or_a_folder_that_is_not_there_is_a_wrong_address(bucket: Bucket, below: str) -> None:
    place = bucket.url(below) if below else "s3://no-such-bucket"
    with pytest.raises(InputError, match="nothing there") as error:
        open_corpus(place)
    assert said(error).startswith(f"{place}: ")


def test_a_store_that_refuses_the_credentials_says_so_and_one_that_begins_to_is_tried_again(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "secret.png"):
        bucket.put(f"set/{name}", noise_image(1))
    key = account(bucket)
    bucket.check_keys()
    with pytest.raises(InputError, match="check the address and the credentials") as error:
        open_corpus(bucket.url("set"))
    assert said(error).startswith("s3://pictures/set: ")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    corpus = open_corpus(bucket.url("set"))
    assert corpus.read("a.png") == noise_image(1)
    with pytest.raises(InputError, match=r"^secret\.png: "):
        corpus.read("secret.png")
    bucket.let_in_all()
    bucket.client("iam").delete_access_key(UserName="miner", AccessKeyId=key["AccessKeyId"])
    bucket.check_keys()
    with pytest.raises(Unavailable, match="check credentials and network, then run again"):
        corpus.read("a.png")


def account(bucket: Bucket) -> dict[str, str]:
    """Make an account that may read all but one object."""
    accounts = bucket.client("iam")
    accounts.create_user(UserName="miner")
    rules = [
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
        {"Effect": "Deny", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::pictures/set/secret.png"},
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": rules})
    accounts.put_user_policy(UserName="miner", PolicyName="all", PolicyDocument=policy)
    return dict(accounts.create_access_key(UserName="miner")["AccessKey"])


def test_no_credentials_at_all_is_one_line(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in object_store.KEYS:
        monkeypatch.delenv(name)
    with pytest.raises(InputError, match="Unable to locate credentials"):
        open_corpus(bucket.url("set"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return open_encoder(str(random_retrieval_model(tmp_path_factory.mktemp("model"))), "cpu")


CASES = [
    ("files", 500),
    ("files", CUT),
    ("files", DEATH),
    ("tar", 503),
    ("parquet", 500),
    ("lance", CUT),
    ("lance", 403),
]


@pytest.mark.parametrize(("shape", "fault"), CASES)
def test_a_store_that_fails_in_the_middle_stops_the_work_and_the_same_command_ends_it(
    tmp_path: Path, bucket: Bucket, encoder: Encoder, shape: str, fault: int
) -> None:
    place = bucket.url("set.lance" if shape == "lance" else "set")
    write_many(bucket, tmp_path, shape)
    corpus = open_corpus(place)
    keys = [item.key for item in corpus.items()]
    assert len(keys) == 12
    store = new_store(tmp_path / "store", encoder.queries, encoder.width, encoder.digest)
    bucket.spoil = lambda key: fault if len(store) else 0
    with pytest.raises(Unavailable, match="run again") as error:
        embed(corpus, encoder, store, Events(), batch_size=2)
    said(error)
    done = len(store)
    assert 0 < done < 12
    assert store.failures() == [], "no image is to blame"
    if fault == DEATH:
        bucket.start()
    bucket.spoil = lambda key: 0
    assert embed(open_corpus(place), encoder, store, Events(), batch_size=2)["embedded"] == 12 - done
    assert sorted(key for key, _ in store.items()) == sorted(keys)


def test_mining_that_a_store_breaks_off_adds_each_image_once(work: Work, bucket: Bucket, encoder: Encoder) -> None:
    write_many(bucket, work.folder, "files")
    mine = Mine(corpus=bucket.url("set"), model=encoder.name, per_category=1, explore=0.3, licence="CC0-1.0")
    plan = work.folder / "selection.json"
    asked: list[str] = []

    def fail(key: str) -> int:
        asked.extend([key] * plan.exists())
        return 500 if len(asked) > 2 else 0

    bucket.spoil = fail
    with pytest.raises(Unavailable, match="run again"):
        mine.run(work)
    bucket.spoil = lambda key: 0
    chosen = [pick["id"] for pick in json.loads(plan.read_text())["picks"]]
    assert mine.run(work)["mined"] == len(chosen) > 2
    samples = list(work.dataset.samples())
    assert sorted(sample.id for sample in samples) == sorted(chosen)
    assert all(sample.origin["url"] == f"{bucket.url()}/{sample.origin['source']}" for sample in samples)


def write_many(bucket: Bucket, folder: Path, shape: str) -> None:
    """Put 12 images, in three archives or Parquet files of four, or a Lance table."""
    if shape == "lance":
        lance.write_dataset(pa.table({"image": [noise_image(n) for n in range(12)]}), str(folder / "set.lance"))
        upload(bucket, folder / "set.lance")
        return
    for part in range(3):
        folder.mkdir(exist_ok=True)
        some = [(f"{n:02d}.png", noise_image(n)) for n in range(part * 4, part * 4 + 4)]
        if shape == "tar":
            bucket.put(f"set/{part}.tar", tar(folder / f"{part}.tar", *some).read_bytes())
        elif shape == "parquet":
            pq.write_table(pa.table({"image": [data for _, data in some]}), folder / "part.parquet")
            bucket.put(f"set/{part}.parquet", (folder / "part.parquet").read_bytes())
        else:
            for name, data in some:
                bucket.put(f"set/{name}", data)


def test_a_store_that_is_down_ends_the_command_with_75(tmp_path: Path, bucket: Bucket) -> None:
    policy = POLICY
    command = [sys.executable, "-m", "tilth.pipeline.cli.main", "mine", str(tmp_path / "set"), "--policy", str(policy)]
    bucket.spoil = lambda key: 503
    bucket.put("set/0.parquet", noise_image(1))
    place = bucket.url("set")
    done = subprocess.run([*command, "--set", f"corpus={place}"], capture_output=True, text=True, check=False)
    assert done.returncode == 75, done.stderr
    assert refusal(done).startswith(f"{place}: 0.parquet: ")


def test_a_table_in_a_store_cannot_lead_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(noise_image(1))
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"path": ["../secret.png", "x/../../secret.png"]}), tmp_path / "set" / "a.parquet")
    corpus = open_corpus(f"file://{tmp_path}/set")  # a store to fsspec, one that takes `..` for the folder above
    for item in corpus.items():
        with pytest.raises(InputError, match="no such file in the corpus"):
            corpus.read(item.key)
