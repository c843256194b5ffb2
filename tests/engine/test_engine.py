"""The engine keeps its promises: nothing twice, nothing lost, nothing held in memory."""

import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from brightness import Brightness
from noise import noise_image, noise_samples
from PIL import Image as PilImage
from places import PARTS, POLICY

from tilth.data.dataset import Dataset
from tilth.engine.intake import Failed
from tilth.engine.work import Work
from tilth.errors import InputError, TooManyFailures
from tilth.samples import NewSample, Result, Sample


def contents(dataset: Dataset) -> dict[str, object]:
    return {s.id: (s.columns, s.claims, s.drops) for s in dataset.samples(images=False, dropped=True)}


def test_the_same_picture_is_one_sample_whatever_its_file(work: Work) -> None:
    work.add("a", noise_samples(3))
    work.add("b", [NewSample(data=noise_image(1), origin={"source": "again"})])
    assert work.dataset.count() == 3


def test_a_second_run_of_a_mapper_does_no_work(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    work.add("a", noise_samples(20))
    assert sum(work.map(Brightness()).values()) == 20
    before = contents(work.dataset)

    def load(self: Brightness) -> Callable[[Sequence[Sample]], list[Result]]:
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr(Brightness, "load", load)
    work.map(Brightness())
    assert contents(work.dataset) == before


def test_new_images_are_all_that_a_later_run_looks_at(work: Work) -> None:
    work.add("a", noise_samples(10))
    work.map(Brightness())
    work.add("b", noise_samples(15))
    assert sum(work.map(Brightness()).values()) == 15
    assert all("mean" in s.columns for s in work.dataset.samples(dropped=True))


def test_a_batch_gives_the_same_as_its_images_one_by_one(tmp_path: Path, work: Work) -> None:
    work.add("a", noise_samples(20))
    work.map(Brightness(batch_size=8))
    other = Work(
        name="test", dataset=Dataset(tmp_path / "other"), policy=work.policy, folder=tmp_path, events=work.events
    )
    other.add("a", noise_samples(20))
    other.map(Brightness(batch_size=1))
    assert contents(work.dataset) == contents(other.dataset)


def test_one_bad_image_of_a_batch_fails_alone_and_keeps_its_reason(work: Work) -> None:
    work.add("a", [*noise_samples(9), NewSample(data=black_png(), origin={"source": "black.png"})])
    counts = work.map(Brightness(batch_size=8, refuse_below=1))
    assert counts["failed"] == 1
    [ref] = [t for t in work.dataset.at.tables if not t.adds]
    assert work.dataset.table(ref.name).failures()[0][1] == "ValueError: too dark"


def black_png() -> bytes:
    import numpy as np

    from tilth.images import encode_png

    return encode_png(np.zeros((16, 16, 3), np.uint8))


def test_retry_takes_the_failed_ones_and_only_those(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    work.add("a", [*noise_samples(9), NewSample(data=black_png(), origin={})])
    mapper = Brightness(refuse_below=1)
    work.map(mapper)
    looked_at: list[str] = []

    def load(self: Brightness) -> Callable[[Sequence[Sample]], list[Result]]:
        def mended(samples: Sequence[Sample]) -> list[Result]:
            looked_at.extend(s.id for s in samples)
            return [Result(columns={"mean": 0.0}) for _ in samples]

        return mended

    monkeypatch.setattr(Brightness, "load", load)
    work.retry_failed = True
    counts = work.map(mapper)
    assert len(looked_at) == 1
    assert "failed" not in counts
    assert sum(counts.values()) == 10


def test_a_run_that_goes_wrong_stops_and_says_how_to_go_on(work: Work) -> None:
    work.add("a", noise_samples(80))
    with pytest.raises(TooManyFailures, match="--retry-failed") as caught:
        work.map(Brightness(refuse_below=1000))
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("count", [1, 3])
def test_work_of_which_nothing_comes_is_no_success_at_any_number(work: Work, count: int) -> None:
    work.add("a", noise_samples(count))
    for _ in range(2):  # and not when it is run again, either
        with pytest.raises(TooManyFailures, match=f"all {count} samples failed"):
            work.map(Brightness(refuse_below=1000))


def test_a_hundred_corrupt_files_among_a_thousand_are_a_hundred_failure_rows(work: Work) -> None:
    samples = [
        NewSample(data=noise_image(i)[: 40 if i % 10 == 0 else None], origin={"source": str(i)}) for i in range(1000)
    ]
    assert work.add("a", samples) == {"ok": 900, "failed": 100}
    assert work.dataset.count() == 900


def test_an_image_that_could_not_be_had_is_a_row_with_its_reason(work: Work) -> None:
    assert work.add("a", [*noise_samples(2), Failed(name="gone.png", error="no such file")]) == {"ok": 2, "failed": 1}
    [table] = [work.dataset.table(t.name) for t in work.dataset.at.tables]
    assert table.failures()[0][1] == "gone.png: no such file"


def test_two_runs_on_the_same_input_give_the_same_dataset(tmp_path: Path, work: Work) -> None:
    other = Work(
        name="test", dataset=Dataset(tmp_path / "other"), policy=work.policy, folder=tmp_path, events=work.events
    )
    for each in (work, other):
        each.add("a", noise_samples(30))
        each.map(Brightness())
    assert contents(work.dataset) == contents(other.dataset)
    assert [t.name for t in work.dataset.at.tables] == [t.name for t in other.dataset.at.tables]


JOB = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from noise import noise_samples
from brightness import Brightness
from tilth.engine import job as engine
from tilth.data.dataset import Dataset
from tilth.events import Events
from tilth.policy import load_policy
from tilth.engine.work import Work
root = Path(sys.argv[1])
work = Work(name="test", dataset=Dataset(root / "dataset"), policy=load_policy(Path({policy!r})), folder=root,
            events=Events(root / "e.jsonl"))
engine.COMMIT_ROWS = 64  # so that kills come between commits
work.add("a", noise_samples(600), commit_rows=64)
work.map(Brightness(batch_size=8, slow_s=0.02))
"""


def test_a_killed_run_resumes_without_duplicates_or_gaps(tmp_path: Path) -> None:
    code = JOB.format(tests=str(PARTS), policy=str(POLICY))
    results = tmp_path / "dataset" / "results"
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL)
        rows = _rows(results)
        deadline = time.monotonic() + 60
        while _rows(results) < rows + 70 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    killed_at = _rows(results)
    assert killed_at < 1200, "the job was never killed in mid-work"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, stderr=subprocess.DEVNULL)
    dataset = Dataset(tmp_path / "dataset")
    samples = list(dataset.samples(images=False, dropped=True))
    assert len(samples) == 600
    assert all("mean" in s.columns and len(s.claims) == 1 for s in samples)
    assert _rows(results) == 1200
    for table in dataset.at.tables:
        ids = [i for batch in dataset.table(table.name).ids() for i in batch]
        assert len(ids) == len(set(ids)) == 600


def _rows(results: Path) -> int:
    import lance

    total = 0
    for path in results.glob("*.lance"):
        try:
            total += lance.dataset(str(path)).count_rows()
        except (ValueError, OSError):  # it is being made at this moment
            continue
    return total


def test_memory_does_not_grow_with_the_number_of_images(work: Work) -> None:
    def stream(n: int, start: int) -> Iterator[NewSample]:
        for seed in range(start, start + n):
            pixels = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), dtype=np.uint8)
            file = io.BytesIO()
            PilImage.fromarray(pixels).save(file, "BMP")  # 200 kB: 1,500 of them would show
            yield NewSample(data=file.getvalue(), origin={})

    work.add("warm", stream(500, 0))
    work.map(Brightness())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work.add("many", stream(1500, 1000))
    work.map(Brightness())
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 100, f"{grown_mb:.0f} MB more for 300 MB of images"


def test_a_sample_read_without_its_image_says_so(work: Work) -> None:
    work.add("a", noise_samples(1))
    sample = next(work.dataset.samples(images=False))
    with pytest.raises(InputError, match="without its image"):
        sample.pixels()
