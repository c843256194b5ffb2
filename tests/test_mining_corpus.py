"""A corpus is read in one order, never left, and never trusted."""

from pathlib import Path

import pytest
from conftest import noise_image

from tilth.errors import InputError
from tilth.mining.corpus import FolderCorpus


def keys(folder: Path) -> list[str]:
    return [item.key for item in FolderCorpus(folder).items()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.png", "b/1.PNG", "a.jpg", "c.txt", ".hidden.png", ".git/x.png"):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise_image(len(name)))
    return tmp_path / "corpus"


def test_images_come_by_path_and_hidden_files_stay_hidden(folder: Path) -> None:
    assert keys(folder) == ["a.jpg", "b/1.PNG", "b/2.png"]


def test_links_out_of_the_folder_and_rings_of_folders_are_not_followed(tmp_path: Path, folder: Path) -> None:
    outside = tmp_path / "secret.png"
    outside.write_bytes(noise_image(1))
    (folder / "leads_out.png").symlink_to(outside)
    (folder / "up").symlink_to(tmp_path)
    (folder / "ring").symlink_to(folder)
    (folder / "dangling.png").symlink_to(folder / "nothing.png")
    (folder / "z_inside.png").symlink_to(folder / "a.jpg")
    assert keys(folder) == ["a.jpg", "b/1.PNG", "b/2.png", "z_inside.png"]


@pytest.mark.parametrize("key", ["../secret.png", "/etc/hostname", "b/../../secret.png", "gone.png"])
def test_a_key_cannot_reach_outside(tmp_path: Path, folder: Path, key: str) -> None:
    (tmp_path / "secret.png").write_bytes(noise_image(1))
    with pytest.raises(InputError, match="no such file in the corpus"):
        FolderCorpus(folder).read(key)


def test_a_changed_file_has_another_stamp(folder: Path) -> None:
    corpus = FolderCorpus(folder)
    before = corpus.stamp("a.jpg")
    (folder / "a.jpg").write_bytes(noise_image(99, side=17))
    assert corpus.stamp("a.jpg") != before
    (folder / "a.jpg").unlink()
    assert corpus.stamp("a.jpg") == ""


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        FolderCorpus(tmp_path / "nowhere")
