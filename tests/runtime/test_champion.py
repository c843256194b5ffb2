"""The champion: one rename puts a bundle into use, the way back is as short, and a server follows."""

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from runtime_graphs import GREY, shared_bundle, write_bundle
from served import asked

from tilth.data.files import alone
from tilth.errors import InputError, ModelError, Unavailable
from tilth.images import encode_png
from tilth.runtime.bundles.bundle import digest_of, in_use, load_bundle, seal
from tilth.runtime.bundles.champion import Champion, is_champion

NOW = "2026-11-30T02:00:00Z"


def bundles(folder: Path, number: int) -> list[Path]:
    """Bundles that differ in when they call an image clear."""
    made = []
    for i in range(number):
        made.append(Path(shutil.copytree(shared_bundle(), folder / f"b{i}")))
        seal(made[-1], clear_below=0.02 + i / 100)
    return made


def test_the_newest_is_in_use_and_the_way_back_leads_through_all(tmp_path: Path) -> None:
    one, two, three = bundles(tmp_path, 3)
    champion = Champion(tmp_path / "champion")
    assert champion.bundle is None
    assert not is_champion(champion.folder)
    assert champion.promote(one, time=NOW).instead_of == ""
    for bundle in (two, three, three):
        champion.promote(bundle, time=NOW, why="better")
    assert [p.bundle[:4] for p in champion.history()] == ["0001", "0002", "0003"]
    assert is_champion(champion.folder)
    assert load_bundle(champion.folder).name == load_bundle(three).name
    shutil.rmtree(three)  # it was copied
    assert digest_of(in_use(champion.folder)) == digest_of(champion.folder / "bundle")
    assert champion.rollback(time=NOW).bundle[:4] == "0002"
    assert champion.rollback(time=NOW).bundle[:4] == "0001"
    with pytest.raises(InputError, match="nothing was in use before 0001-"):
        champion.rollback(time=NOW)
    assert champion.rollback("3", time=NOW, why="a mistake").back
    with pytest.raises(InputError, match="no bundle '7'; there are: 0001-"):
        champion.rollback("7", time=NOW)
    assert [p.bundle[:4] for p in champion.history()][-3:] == ["0002", "0001", "0003"]


def test_a_kill_between_the_rename_and_the_note_is_made_good(tmp_path: Path) -> None:
    one, two, three = bundles(tmp_path, 3)
    champion = Champion(tmp_path / "champion")
    for bundle in (one, two, three):
        champion.promote(bundle, time=NOW)

    def killed(at: str) -> None:
        """Leave the link where it was, with the note written."""
        (champion.folder / "next").symlink_to(f"bundles/{at}")
        (champion.folder / "next").replace(champion.folder / "bundle")

    names = [p.bundle for p in champion.history()]
    killed(names[1])
    made = champion.promote(three, time=NOW)
    assert (made.bundle, made.instead_of, in_use(champion.folder).name) == (names[2], names[1], names[2])
    assert len(champion.history()) == 3
    killed(names[1])
    assert champion.rollback(time=NOW).bundle == names[1], "which is what is served, and not one more"
    killed(names[2])
    assert champion.rollback(time=NOW).bundle == in_use(champion.folder).name == names[1], "not one more"
    champion.rollback("1", time=NOW)
    killed(names[1])
    assert champion.rollback("1", time=NOW).bundle == in_use(champion.folder).name == names[0]
    assert len(champion.history()) == 5


def test_old_bundles_go_but_never_the_one_in_use(tmp_path: Path) -> None:
    champion = Champion(tmp_path / "champion")
    made = bundles(tmp_path, 5)
    for bundle in made[:3]:
        champion.promote(bundle, time=NOW, kept=2)
    there = lambda: sorted(p.name[:4] for p in (champion.folder / "bundles").iterdir())  # noqa: E731
    assert there() == ["0002", "0003"]
    champion.rollback(time=NOW)
    champion.promote(made[3], time=NOW, kept=2)
    assert there() == ["0003", "0004"]
    champion.promote(made[4], time=NOW, kept=1)
    assert there() == ["0005"]


def test_what_is_no_whole_bundle_is_never_put_into_use(tmp_path: Path) -> None:
    one, two = bundles(tmp_path, 2)
    champion = Champion(tmp_path / "champion")
    champion.promote(one, time=NOW)
    (two / "policy.yaml").write_text("changed")
    with pytest.raises(ModelError, match=r"policy\.yaml was changed"):
        champion.promote(two, time=NOW)
    with pytest.raises(InputError, match="is not a bundle"):
        champion.promote(tmp_path, time=NOW)
    seal(write_bundle(tmp_path / "third"), clear_below=0.03)
    with alone(champion.folder), pytest.raises(Unavailable, match="another run is at work"):
        champion.promote(tmp_path / "third", time=NOW)
    assert load_bundle(champion.folder).name == load_bundle(one).name


def test_a_server_of_the_champion_goes_on_with_the_next_one(tmp_path: Path) -> None:
    one, two, broken = bundles(tmp_path, 3)
    champion = Champion(tmp_path / "champion")
    champion.promote(one, time=NOW)
    code = (
        "import sys; from pathlib import Path; from tilth.runtime.serving import app, server; app.FOLLOW_S = 0.1; "
        "server.serve(Path(sys.argv[1]), port=int(sys.argv[2]))"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", code, str(champion.folder), str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said = ""
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:

            def serves(name: str) -> bool:
                for _ in range(300):
                    try:
                        if client.get("/readyz").json().get("model") == name:
                            return True
                    except httpx.TransportError:
                        pass
                    time.sleep(0.1)
                return False

            assert serves(load_bundle(one).name)
            champion.promote(two, time=NOW)
            name = load_bundle(two).name
            assert serves(name)
            answer = client.post("/v1/moderations", json={"input": [asked(encode_png(GREY))]}).json()
            assert answer["model"] == name == client.get("/v1/models").json()["data"][0]["id"]
            champion.promote(broken, time=NOW)
            assert serves(load_bundle(broken).name)
            (champion.folder / "bundles" / f"0002-{digest_of(two)}" / "policy.yaml").write_text("changed")
            (champion.folder / "next").symlink_to(f"bundles/0002-{digest_of(two)}")
            (champion.folder / "next").replace(champion.folder / "bundle")
            time.sleep(1)
            assert client.get("/readyz").json()["model"] == load_bundle(broken).name, "it stays with what it has"
    finally:
        process.terminate()
        said = process.communicate(timeout=30)[1]
    assert said.count("cannot be served") == 1, "it is told once"
    assert said.count("takes over from") == 2
