"""People see images where they lie: in a bucket that a real Label Studio reads, and that tilth never copies."""

from collections.abc import Iterator

import httpx
import label_studio
import object_store
import pytest
from noise import noise_image
from object_store import KEYS, Bucket
from review_desk import Desk, auto

from tilth.annotate.review.review import Review
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.mining.corpora.opening import open_corpus
from tilth.samples import NewSample

pytestmark = pytest.mark.timeout(900)  # the server's first start takes minutes on a busy machine
NAMES = ("a.png", "deep/a b+%&#ü.png")


@pytest.fixture
def bucket(server: label_studio.Server) -> Iterator[Bucket]:
    with object_store.serving("pictures", server.store_port) as served:
        yield served


@pytest.fixture
def desk(
    work: Work,
    server: label_studio.Server,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Desk:
    """A review of two images that were mined from the bucket."""
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", server.token)
    work.name = request.node.name[-28:]
    for n, name in enumerate(NAMES):
        bucket.put(f"set/{name}", noise_image(n, 40))
    corpus = open_corpus(bucket.url("set"))
    mined = [
        NewSample(
            data=corpus.read(item.key),
            origin={"source": f"{corpus.name}/{item.key}", **corpus.about(item.key)},
            claims=(auto(),),
        )
        for item in corpus.items()
    ]
    work.add("mined", mined)
    desk = Desk(work, server)
    desk.review = Review(url=server.url, images="origin", audit_share=0)
    return desk


def add_storage(desk: Desk, bucket: str, **more: object) -> int:
    """Do what docs/review.md says."""
    body = {
        "project": desk.ledger.project,
        "title": "images",
        "bucket": bucket,
        "use_blob_urls": True,
        "aws_access_key_id": KEYS["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": KEYS["AWS_SECRET_ACCESS_KEY"],
        **more,
    }
    return int(desk.server.call("POST", "/api/storages/s3/", body)["id"])


@pytest.mark.parametrize("presign", [True, False])
def test_a_mined_image_is_shown_from_its_bucket_once_the_project_can_read_it(
    desk: Desk, bucket: Bucket, presign: bool
) -> None:
    with pytest.raises(InputError, match=r"no storage for s3://pictures, .* Add Source Storage") as error:
        desk.push()
    assert len(str(error.value).splitlines()) == 1
    add_storage(desk, "pictures", presign=presign)
    assert desk.push()["sent"] == 2
    assert desk.push()["sent"] == 0
    seen = {}
    with httpx.Client(headers={"Authorization": f"Token {desk.server.token}"}, follow_redirects=True) as browser:
        for task in desk.tasks():
            address = desk.server.call("GET", f"/api/tasks/{task['id']}/")["data"]["image"]
            assert f"/tasks/{task['id']}/resolve/" in address
            answer = browser.get(httpx.URL(desk.server.url).join(address))
            assert answer.url.port == (desk.server.store_port if presign else desk.server.port)
            seen[task["data"]["sample"]] = answer.content
    assert seen == {sample.id: sample.data for sample in desk.work.dataset.samples()}
    desk.answer(desk.tasks()[0])
    assert desk.pull()["changed"] == 1
