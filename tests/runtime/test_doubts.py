"""What the served model doubts is kept aside: the image as it came and its scores, no more, and never one of a hash list."""

import json
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from noise import noise_image
from runtime_graphs import BLUE, GREY, RED, plain, shared_moderator
from served import asked, running

from tilth.errors import InputError
from tilth.images import Image, decode, encode_png, image_id
from tilth.runtime.serving import doubts as module
from tilth.runtime.serving.doubts import Doubts, doubt
from tilth.runtime.serving.shelf import LINES, Kept, Shelf
from tilth.runtime.stages.cascade import Action, Verdict

NOON = "2026-11-29T12:00:00Z"


class Listed:
    """A hash list of whole images."""

    def __init__(self, *ids: str) -> None:
        self.ids, self.digest = ids, ",".join(ids)

    def __call__(self, image: Image) -> str | None:
        return "on a list" if image_id(image) in self.ids else None


def verdict(knife: float, **more: float) -> Verdict:
    scores = {**dict.fromkeys(shared_moderator().policy.names, 0.0), "knife": knife, **more}
    return Verdict(action=Action.REVIEW, actions={}, scores=scores, stage=1, reason="")


def keeper(folder: Path, most: int = 100, guard: Listed | None = None) -> Doubts:
    return Doubts(shared_moderator(), folder, most=most, guard=guard, now=lambda: NOON)


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / LINES).read_text().splitlines()]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name[0] != "."}


def doubts_of(folder: Path) -> list[float]:
    """The doubt of each line, after looking that each has its image, and each image its line."""
    assert files(folder) == {LINES, *(str(row["file_name"]) for row in rows(folder))}
    return sorted(row["served"]["doubt"] for row in rows(folder))  # type: ignore[index]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"knife": 0.3}, 1.0),  # review_above 0.3, block_above 0.8, clear_below 0.1
        ({"knife": 0.2}, 0.5),
        ({"knife": 0.55}, 0.5),
        ({"knife": 0.1}, 0.0),
        ({"knife": 0.8}, 0.01),  # people are to look at it, so it is never nothing
        ({"knife": 0.81}, 0.0),
        ({"knife": 0.99, "pill": 0.2}, 0.5),  # one category may be sure and another in doubt
        ({"knife": 0.0, "text_area": 0.99}, 0.0),  # it only says where to read
    ],
)
def test_doubt_is_greatest_where_one_step_would_change_what_happens(scores: dict[str, float], expected: float) -> None:
    found = doubt(verdict(**scores), shared_moderator().policy, shared_moderator().clear_below)
    assert found == pytest.approx(expected)
    assert doubt(replace(verdict(**scores), of="text"), shared_moderator().policy, 0.1) == 0


def test_a_server_keeps_what_it_doubts_as_it_came_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, jpeg = tmp_path / "doubts", encode_png(BLUE) + b"a tail that no decoder reads"
    private = {"x-request-id": "private-7", "user-agent": "private", "cookie": "private"}
    with caplog.at_level(logging.INFO), running(shared_moderator(), keeper(folder)) as client:
        sent = [asked(RED), asked(jpeg), asked(GREY), "private words", asked(jpeg)]
        answer = client.post("/v1/moderations", json={"input": sent}, headers=private)
        assert answer.status_code == 200
        told = answer.json()["results"][1]
    [row] = rows(folder)
    id_ = image_id(BLUE)
    assert row == {
        "file_name": f"{id_}.png",
        "hash_lists": None,
        "served": {
            "by": shared_moderator().name,
            "time": NOON,
            "stage": 1,
            "action": told["tilth"]["action"],
            "doubt": row["served"]["doubt"],  # type: ignore[index]
            "scores": told["category_scores"],
        },
    }
    assert (folder / f"{id_}.png").read_bytes() == jpeg
    assert files(folder) == {LINES, f"{id_}.png"}
    assert oct(folder.stat().st_mode)[-3:] == "700"
    assert not any(b"private" in path.read_bytes() for path in folder.iterdir())
    assert "seen=4 doubt=2 kept=1 copy=1 less_doubtful=0 busy=0 listed=0 failed=0" in caplog.text
    assert id_ not in caplog.text


def test_an_image_on_a_hash_list_is_never_kept_and_goes_when_the_list_has_grown(tmp_path: Path) -> None:
    first, second = encode_png(BLUE), encode_png(plain((20, 20, 251)))
    ids = [image_id(decode(data)) for data in (first, second)]
    doubts = keeper(tmp_path, guard=Listed(ids[0]))
    for data in (first, second):
        doubts.keep(data, verdict(0.3))
    doubts.close()
    assert (doubts.counts["listed"], files(tmp_path)) == (1, {LINES, f"{ids[1]}.png"})
    keeper(tmp_path, guard=Listed(*ids)).close()
    assert (files(tmp_path), rows(tmp_path)) == ({LINES}, [])


def test_the_most_doubtful_stay_whenever_they_came_and_all_are_accounted_for(tmp_path: Path) -> None:
    doubts = keeper(tmp_path, most=10)
    order = np.random.default_rng(0).permutation(40)
    for n in order:
        doubts.keep(noise_image(int(n), 16), verdict(0.3 + n / 100))
        assert len(doubts_of(tmp_path)) <= 10
    told = doubts.counts
    doubts.close()
    best = sorted(1 - n / 50 for n in range(9))
    assert set(np.round(best, 6)) <= set(doubts_of(tmp_path))
    assert told["kept"] - told["pushed_out"] == len(rows(tmp_path))
    assert told["seen"] == told["doubt"] == told["kept"] + told["less_doubtful"] == 40
    again = keeper(tmp_path, most=10)
    again.keep(noise_image(0, 16), verdict(0.3))
    assert again.counts["copy"] == 1
    again.close()


def test_the_most_doubtful_of_all_is_the_one_that_is_kept_where_there_is_room_for_one(tmp_path: Path) -> None:
    doubts = keeper(tmp_path, most=1)
    for n, knife in enumerate((0.7, 0.35, 0.6)):
        doubts.keep(noise_image(n, 16), verdict(knife))
    doubts.close()
    assert doubts_of(tmp_path) == [0.9]


def test_a_folder_that_is_moved_away_or_emptied_begins_anew(tmp_path: Path) -> None:
    doubts = keeper(tmp_path / "now", most=2)
    for n, knife in enumerate((0.3, 0.31, 0.32)):
        doubts.keep(noise_image(n, 16), verdict(knife))
    (tmp_path / "now").rename(tmp_path / "night")
    doubts.keep(noise_image(0, 16), verdict(0.7))
    assert (len(doubts_of(tmp_path / "night")), doubts_of(tmp_path / "now")) == (2, [0.2])
    for path in (tmp_path / "now").iterdir():
        path.unlink()
    doubts.keep(noise_image(1, 16), verdict(0.7))
    doubts.close()
    assert (doubts_of(tmp_path / "now"), doubts.counts["failed"]) == ([0.2], 0)


def test_what_a_killed_server_left_half_done_is_put_right(tmp_path: Path) -> None:
    doubts = keeper(tmp_path)
    doubts.keep(noise_image(0, 16), verdict(0.4))
    doubts.close()
    (tmp_path / f"{'a' * 64}.png").write_bytes(b"an image whose line was not written")
    (tmp_path / f".{'b' * 64}.png").write_bytes(b"half of an im")
    with (tmp_path / LINES).open("a") as lines:
        lines.write(f'{{"file_name": "{"c" * 64}.png", "served": {{"doubt": 1}}}}\n{{"file_name": "dd')
    keeper(tmp_path).close()
    assert doubts_of(tmp_path) == [0.8]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] == ".") == []


def test_a_folder_of_others_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    for name, text in (("holiday.jpg", "x"), (LINES, '{"file_name": "a.png"}\n')):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises(InputError, match="name a new folder"):
            keeper(folder)
        assert (folder / name).read_text() == text
    first = keeper(tmp_path / "mine")
    with pytest.raises(InputError, match="another server keeps its doubts there"):
        keeper(tmp_path / "mine")
    first.close()
    keeper(tmp_path / "mine").close()


def test_a_disk_that_is_full_breaks_no_answer_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device", "the id of an image")

    monkeypatch.setattr(Shelf, "put", full)
    doubts = keeper(tmp_path)
    with caplog.at_level(logging.WARNING), running(shared_moderator(), doubts) as client:
        statuses = [client.post("/v1/moderations", json={"input": asked(BLUE)}).status_code for _ in range(2)]
    assert (statuses, doubts.counts["failed"]) == ([200, 200], 2)
    assert [r.getMessage() for r in caplog.records if r.name == "tilth.doubts"] == [
        "a doubtful image could not be kept, and others may not be: No space left on device"
    ]


def test_an_image_whose_line_could_not_be_written_leaves_nothing_and_the_next_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(self: Shelf, new: Kept, data: bytes) -> None:
        write(self, replace(new, line=new.line[:50]), data)
        raise OSError(28, "No space left on device")

    write, doubts = Shelf._write, keeper(tmp_path)
    for n, way in enumerate((write, cut_short, write)):
        monkeypatch.setattr(Shelf, "_write", way)
        doubts.keep(noise_image(n, 16), verdict(0.3 + n / 10))
        assert len(files(tmp_path)) == (2, 2, 3)[n]
    doubts.close()
    assert (doubts_of(tmp_path), doubts.counts["failed"]) == ([0.6, 1.0], 1)


def test_images_that_come_too_fast_are_counted_and_slow_nobody_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave, put = threading.Event(), Shelf.put

    def slow(self: Shelf, *given: object) -> str:
        leave.wait(60)
        return put(self, *given)  # type: ignore[arg-type]

    images = [noise_image(n, 16) for n in range(4)]
    monkeypatch.setattr(Shelf, "put", slow)
    monkeypatch.setattr(module, "WAITING_BYTES", len(images[0]) + len(images[1]))
    doubts = keeper(tmp_path)
    for image in images:
        doubts.offer(image, verdict(0.3))
    leave.set()
    doubts.close()
    assert (doubts.counts["kept"], doubts.counts["busy"]) == (2, 2)


def test_nothing_is_kept_unless_somebody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with running(shared_moderator()) as client:
        assert client.post("/v1/moderations", json={"input": asked(BLUE)}).status_code == 200
    assert os.listdir(tmp_path) == []
