"""What the console is made of: what it takes of an upload, how it reads runs, and who it lets in."""

import io
import json
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from console_desk import free_port
from noise import noise_image

from tilth.data.files import write_beside
from tilth.errors import InputError
from tilth.pipeline.console import uploads
from tilth.pipeline.console.commands import Command, begin, end, last_words, running
from tilth.pipeline.console.form import check_policy, keep, policy_text
from tilth.pipeline.console.runs import Console, all_runs, look
from tilth.pipeline.console.server import listen, read_token
from tilth.pipeline.console.uploads import Taken, place_of, take
from tilth.pipeline.console.ways import CONFIGS, WAYS, holds, lacks, variables

pytest.importorskip("nicegui", reason="nicegui is not installed: pip install 'tilth[console]'")


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    out.seek(0)
    return out


def test_of_an_archive_what_is_hostile_is_refused_and_counted_and_the_rest_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "FILE_BYTES", 2**20)
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    taken = Taken(folder=tmp_path / "set")
    data = zipped(
        ("train/a.png", noise_image(1)),
        ("train/annotations.json", b"{}"),
        ("../../out.png", noise_image(2)),
        ("/etc/out.png", noise_image(2)),
        ("a\\..\\out.png", noise_image(2)),
        (link, b"/etc/passwd"),
        ("bomb.png", bytes(2**20 + 1)),
        ("page.png", b"<html>"),
        ("run.exe", b"MZ"),
        (".ssh/key.png", noise_image(3)),
        ("labels.txt", b"\xff\xfe\x00"),
    )
    take(taken, "set.zip", data)
    assert (taken.images, taken.labels) == (1, 1)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "set/train/a.png",
        "set/train/annotations.json",
    ]
    counts = taken.refused.counts
    assert counts["its name leads out of the upload"] == 3
    assert counts["a link"] == 1
    assert counts["larger than 1 MiB"] == 1
    assert counts["neither an image nor labels"] == 1
    assert counts["a label file that is no text"] == 1
    assert sum(counts.values()) == 9
    assert all(" × " in line and " as " in line for line in taken.reasons)


def test_an_archive_that_lies_about_its_size_is_read_no_further_than_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "ALL_BYTES", 2**18)
    taken = Taken(folder=tmp_path / "set")
    take(taken, "bomb.zip", zipped(*((f"{n}.png", bytes(2**17)) for n in range(50))))
    assert taken.images == 0
    assert taken.read_bytes < 2**18 + 50 * 2**17, "what is refused counts, too"
    assert taken.refused.counts["more than 0 GiB in all"] > 40
    take(taken, "torn.zip", io.BytesIO(b"PK\x03\x04 no archive"))
    assert taken.refused.counts["no archive that can be read (BadZipFile)"] == 1


def test_nothing_that_is_there_is_written_over(tmp_path: Path) -> None:
    taken = Taken(folder=tmp_path / "set")
    for seed in (1, 2):
        take(taken, "a.png", io.BytesIO(noise_image(seed)))
    assert taken.images == 1
    assert (tmp_path / "set" / "a.png").read_bytes() == noise_image(1)
    for name in ("", "..", "a/b", ".hidden", "a" * 65):
        with pytest.raises(InputError, match="a set is named by"):
            place_of(tmp_path, name)


def test_a_policy_is_checked_with_its_lines_and_kept_under_its_name(tmp_path: Path) -> None:
    text = policy_text("things", 1, [{"name": "knife", "definition": "Any: 'all' #1", "prompts": "knife, blade"}])
    wrong, policy = check_policy(text)
    assert wrong == []
    assert policy is not None
    assert policy["knife"].prompts == ("knife", "blade")
    wrong, _ = check_policy(text.replace("definition", "meaning"))
    assert any(line.startswith("line 5: categories[0].meaning: no such key") for line in wrong)
    wrong, _ = check_policy("policy: [")
    assert wrong[0].startswith("line 1: not valid YAML") or wrong[0].startswith("line 2: not valid YAML")
    path = keep(tmp_path, "things", text)
    assert keep(tmp_path, "things", text) == path
    with pytest.raises(InputError, match="another policy has this name"):
        keep(tmp_path, "things", text + "# other\n")
    with pytest.raises(InputError, match="a policy is named by"):
        keep(tmp_path, "../things", text)


def test_a_folder_says_what_it_holds_and_which_recipes_fit(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "a.png").write_bytes(noise_image(1))
    held = holds(str(tmp_path))
    assert held.said == "2 images, with train and test"
    assert lacks(WAYS["few_shot"], held) == []
    assert lacks(WAYS["starter"], held) == ["labelled", "corpus", "truth.jsonl"]
    assert variables(WAYS["few_shot"], held) == {"photos": str(tmp_path)}
    assert variables(WAYS["label"], held)["images"] == str(tmp_path)
    for text, why in (
        ("", "name a folder"),
        (str(tmp_path / "no"), "no such folder"),
        (str(tmp_path / "test" / "a.png"), "is a file"),
    ):
        assert why in holds(text).wrong
    assert "\0" not in holds("a\0b").said or holds("a\0b").wrong
    (tmp_path / "empty").mkdir()
    assert "no image here" in holds(str(tmp_path / "empty")).wrong
    assert {path.stem for path in (CONFIGS / "recipes").glob("*.yaml")} >= {way.file[:-5] for way in WAYS.values()}


def test_a_run_is_read_from_what_it_left(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    folder = runs / "mine"
    (folder / "steps").mkdir(parents=True)
    (folder / "recipe.yaml").write_text("recipe: r\nsteps: [a, {as: b, hash: {}}, {rounds: 2, steps: [c]}]\n")
    told: list[dict[str, object]] = [
        {"event": "run"},
        {"event": "started", "step": "a"},
        {"event": "finished", "step": "a"},
        {"event": "started", "step": "b"},
        {"event": "progress", "label": "b", "done": 5, "total": 10, "unit": "images", "per_s": 1.0, "eta_s": 5},
    ]
    (folder / "events.jsonl").write_text(
        "".join(json.dumps({"time": "2026-12-01T00:00:00Z", **e}) + "\n" for e in told)
    )
    write_beside(folder / "steps" / "01-a.json", json.dumps({"seconds": 2.0, "facts": {"images": 3}}))
    seen = look(runs, "mine")
    assert (seen.state, [step.name for step in seen.steps]) == ("ended", ["a", "b", "c.1", "c.2"])
    assert seen.steps[0].told == "images 3"
    assert "nobody is at work" in seen.why
    with (folder / ".lock").open("w") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        seen = look(runs, "mine")
        assert (seen.state, [step.state for step in seen.steps]) == ("running", ["done", "now", "ahead", "ahead"])
        assert seen.share == pytest.approx(1.5 / 4)
    for event, state in (("stopped", "ended"), ("error", "failed"), ("crash", "failed")):
        (folder / "console.jsonl").write_text(json.dumps({"event": event, "message": "why"}) + "\n")
        assert (look(runs, "mine").state, look(runs, "mine").why) == (state, "why")
    with (folder / "events.jsonl").open("a") as events:
        events.write("torn {\n" + json.dumps({"event": "done", "time": "2026-12-01T00:00:09Z"}) + "\n")
    assert look(runs, "mine").state == "done"
    assert [one.name for one in all_runs(runs)] == ["mine"]
    for name in ("..", "nobody", "a/b", ""):
        with pytest.raises(InputError, match="no run"):
            look(runs, name)


def test_what_was_begun_is_found_by_its_notes_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    class Sleep(Command):
        argv = (sys.executable, "-c", "import time; time.sleep(60)")  # type: ignore[assignment]

    begin(Sleep(("run",)), tmp_path)
    try:
        assert running(tmp_path)
        with pytest.raises(Exception, match="is at work already"):
            begin(Sleep(("run",)), tmp_path)
    finally:
        assert end(tmp_path)
    for _ in range(100):
        if not running(tmp_path):
            break
        subprocess.run(["sleep", "0.05"], check=True)
    assert not running(tmp_path)
    note = json.loads((tmp_path / "console.json").read_text())
    write_beside(tmp_path / "console.json", json.dumps({**note, "pid": 1}))
    assert not running(tmp_path), "another process has the number by now"
    assert last_words([{"event": "crash", "traceback": "Traceback\n  x\nValueError: no"}]) == "ValueError: no"


def test_a_port_that_is_taken_and_a_token_that_could_be_guessed_end_with_2(tmp_path: Path) -> None:
    taken = listen("127.0.0.1", free_port())
    port = taken.getsockname()[1]
    try:
        command = [sys.executable, "-m", "tilth.pipeline.cli.main", "console", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    finally:
        taken.close()
    assert done.returncode == 2
    assert "choose another --port" in json.loads(done.stderr.splitlines()[-1])["message"]
    assert "token" not in done.stdout
    (tmp_path / "token").write_text("short\n")
    with pytest.raises(InputError, match="at least 16 characters"):
        read_token(tmp_path / "token")
    assert len(read_token(None)) >= 32 != read_token(None)
    made = Console(runs=tmp_path, host="0.0.0.0", port=1, token="t", serve_port=2)
    assert not made.is_local
