"""A real Label Studio takes the tasks that are exported, and what it exports is read back."""

import shutil
from pathlib import Path

import httpx
import label_studio
import pytest
from label_sets import SCENES, SIDE, fill, labels_of, opened, silent
from noise import noise_image

from tilth.annotate.exchange.exporting import export
from tilth.annotate.exchange.importing import Import
from tilth.claims import Claim
from tilth.policy import Policy
from tilth.samples import NewSample

pytestmark = pytest.mark.timeout(600)


def test_tasks_go_through_a_real_label_studio_and_come_back(
    server: label_studio.Server, policy: Policy, tmp_path: Path
) -> None:
    guess = Claim(category="knife", box_xyxy=(3, 4, 13, 9.5), score=0.625, source="model:starter:grounding@abc")
    with opened(tmp_path, policy) as work:
        fill(work, SCENES)
        more = [NewSample(data=noise_image(90 + n, SIDE), origin={}, claims=c) for n, c in enumerate([(guess,), ()])]
        work.add("more", more)
        export(work.dataset, tmp_path / "out", "labelstudio", unlabelled=True, say=silent)
        expected = labels_of(work.dataset)
        states = {s.id: s.state for s in work.dataset.samples(images=False)}
    shutil.copytree(tmp_path / "out" / "images", server.files / "images")
    (tmp_path / "theirs").mkdir()
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Token {server.token}"}, timeout=120) as client:
        interface = (tmp_path / "out" / "label_config.xml").read_text()
        made = client.post("/api/projects/", json={"title": "files", "label_config": interface}).raise_for_status()
        project = made.json()["id"]
        storage = {"project": project, "path": str(server.files / "images"), "use_blob_urls": True}
        client.post("/api/storages/localfiles", json=storage).raise_for_status()
        tasks = (tmp_path / "out" / "tasks.json").read_bytes()
        sent = client.post(
            f"/api/projects/{project}/import", content=tasks, headers={"Content-Type": "application/json"}
        )
        told = sent.raise_for_status().json()
        assert (told["task_count"], told["annotation_count"], told["prediction_count"]) == (5, 3, 1)
        shown = client.get(f"/api/tasks/?project={project}").json()["tasks"][0]["data"]["image"]
        assert client.get(shown).status_code == 200
        query = {"exportType": "JSON", "download_all_tasks": "true"}
        exported = client.get(f"/api/projects/{project}/export", params=query).raise_for_status()
        (tmp_path / "theirs" / "tasks.json").write_bytes(exported.content)
    (tmp_path / "back").mkdir()
    with opened(tmp_path / "back", policy) as back:
        facts = Import(path=tmp_path / "theirs", images=server.files).run(back)
        assert (facts["format"], facts["images"], facts["failed"]) == ("labelstudio", 5, 0)
        found = labels_of(back.dataset)
        read = {s.id: s.state for s in back.dataset.samples(images=False)}
    assert read.keys() == states.keys()
    for id_, state in states.items():
        if state == "auto":  # the server exports how many predictions there are, and not what they say
            assert (read[id_], found[id_]) == ("unlabelled", [])
            continue
        assert read[id_] == state
        assert [c for c, _ in found[id_]] == [c for c, _ in expected[id_]]
        for (_, a), (_, b) in zip(found[id_], expected[id_], strict=True):
            assert a == pytest.approx(b, abs=1e-4)
