"""What is on a hash list is not kept, not shown, and leaves no trace but a line of the audit log."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from noise import noise_samples
from PIL import Image
from places import POLICY

from tilth.data import table as kept
from tilth.data.dataset import Dataset
from tilth.data.table import HASH_GATE
from tilth.engine.recipe import load_recipe
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.events import Events
from tilth.images import encode_png
from tilth.mining.copies.listed import HashLists, hashes_of, read_list
from tilth.pipeline.cli.data import export
from tilth.pipeline.run import Run
from tilth.pipeline.table import step_table
from tilth.policy import Policy, load_policy
from tilth.samples import NewSample
from tilth.starter.world.scene import Spec, render


def scene(seed: int, side: int = 320) -> np.ndarray:
    things = (("book", "red", ""), ("cup", "blue", ""))
    return render(Spec(things=things, surface="brick", style="photo"), np.random.default_rng(seed), side=side).image


def listed(path: Path, *images: np.ndarray) -> Path:
    path.write_text("".join(f"pdq {hashes_of(image)[0]}\n" for image in images))
    return path


def jpeg(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=70)
    return out.getvalue()


def holds(folder: Path, data: bytes) -> bool:
    """Whether any file below a folder holds the middle of an image file."""
    part = data[len(data) // 2 : len(data) // 2 + 200]
    return any(part in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_copies_match_and_others_do_not(tmp_path: Path) -> None:
    lists = HashLists([listed(tmp_path / "blocked.txt", scene(1))])
    small = np.asarray(Image.fromarray(scene(1)).resize((200, 200)))
    for copy in (
        scene(1),
        scene(1)[:, ::-1],
        np.rot90(scene(1)),
        small,
        np.asarray(Image.open(io.BytesIO(jpeg(scene(1))))),
    ):
        assert lists(np.ascontiguousarray(copy)) == "on the hash list 'blocked'; quarantined"
    assert lists(scene(2)) is None
    assert lists(np.full((300, 300, 3), 128, np.uint8)) is None  # too plain to have a hash


def test_lists_are_read_in_the_forms_that_they_come_in(tmp_path: Path) -> None:
    path, digits = tmp_path / "a.txt", "0f" * 32
    path.write_text(f"pdq {digits}\n{digits.upper()}\nmd5 {'0' * 32}\n\n{digits},noted,2026\n")
    assert read_list(path) == [digits] * 3
    path.write_text("pdq 1234\n")
    with pytest.raises(InputError, match=r"'1234' is not a PDQ hash; they have 64 hex digits"):
        read_list(path)
    path.write_text("nothing here\n")
    with pytest.raises(InputError, match="no PDQ hash in it"):
        HashLists([path])
    with pytest.raises(InputError, match="not a readable hash list"):
        HashLists([tmp_path / "absent.txt"])


def test_what_is_listed_never_gets_into_the_pool(tmp_path: Path, policy: Policy) -> None:
    guard = HashLists([listed(tmp_path / "blocked.txt", scene(1))])
    dataset = Dataset(tmp_path / "dataset", guard=guard)
    events = Events()
    work = Work(name="import", dataset=dataset, policy=policy, folder=tmp_path, events=events)
    data = jpeg(scene(1))
    good = NewSample(data=encode_png(scene(2)), origin={"source": "good.png"})
    counts = work.add("a", [NewSample(data=data, origin={"source": "bad.jpg"}), good])
    events.close()
    assert counts == {"ok": 1, "quarantined": 1}
    assert len(dataset.pool) == 1
    assert not holds(dataset.root, data)
    [line] = map(json.loads, (dataset.root / "quarantine.jsonl").read_text().splitlines())
    assert (line["source"], line["step"], line["why"]) == (
        "bad.jpg",
        "import",
        "on the hash list 'blocked'; quarantined",
    )


def test_one_image_is_taken_out_of_a_file_full_of_others(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "FRAGMENT_ROWS", 20)  # files of this size are left alone by later compactions
    samples = list(noise_samples(40))
    work.add("a", samples)
    work.dataset.pool.optimize()
    bad = samples[7].data
    work.dataset.guard = lambda image: "listed" if encode_png(image) == bad else None
    assert holds(work.dataset.root, bad)
    assert len(work.dataset.sweep(work.now())) == 1
    assert not holds(work.dataset.root, bad)
    assert work.dataset.count() == 39


def test_a_longer_list_takes_out_what_was_kept_before(tmp_path: Path) -> None:
    rules = yaml.safe_load((POLICY).read_text())
    images = tmp_path / "images"
    images.mkdir()
    files = {seed: encode_png(scene(seed)) for seed in (1, 2, 3)}
    for seed, data in files.items():
        (images / f"{seed}.png").write_bytes(data)
    list_path = listed(tmp_path / "blocked.txt", scene(1))
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump({**rules, "hash_lists": ["blocked.txt"]}))
    recipe = tmp_path / "recipe.yaml"
    steps = [{"import": {"path": str(images), "format": "folder"}}, "hash"]
    recipe.write_text(yaml.safe_dump({"recipe": "gate", "policy": "policy.yaml", "steps": steps}))

    def run() -> Dataset:
        events = Events()
        folder = Run(load_recipe(recipe, step_table(), {}), tmp_path / "run", events=events).execute()
        events.close()
        return Dataset(folder / "dataset")

    first = run()
    version = first.at.number
    assert sorted(s.origin["source"] for s in first.samples()) == ["images/2.png", "images/3.png"]
    listed(list_path, scene(1), scene(2))
    dataset, policy = tmp_path / "run" / "dataset", tmp_path / "policy.yaml"
    export(dataset, tmp_path / "out", "imagefolder", unlabelled=True, policy=policy)
    assert holds(tmp_path / "out", files[3])
    assert not holds(tmp_path / "out", files[2])
    after = run()
    assert [s.origin["source"] for s in after.samples()] == ["images/3.png"]
    assert [s.origin["source"] for s in after.checkout(version).samples()] == ["images/3.png"]
    assert not holds(tmp_path / "run", files[1])
    assert not holds(tmp_path / "run", files[2])
    assert holds(tmp_path / "run", files[3])
    [gone] = [s for s in after.samples(images=False, dropped=True) if s.drops]
    assert gone.drops[-1] == (HASH_GATE, "on the hash list 'blocked'; quarantined")
    assert "blocked" in (tmp_path / "run" / "report.html").read_text()
    assert load_policy(tmp_path / "policy.yaml").hash_lists == (list_path,)
