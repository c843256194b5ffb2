"""The endpoint, asked over a real socket by a real client."""

import base64
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import numpy as np
import pytest
import uvicorn
from runtime_graphs import GREEN, GREY, RED, shared_moderator

from tilth.images import encode_png
from tilth.runtime.serving.server import make_app
from tilth.runtime.stages.cascade import Moderator


@contextmanager
def running(moderator: Moderator, **options: int) -> Iterator[httpx.Client]:
    config = uvicorn.Config(make_app(moderator, **options), host="127.0.0.1", port=0, log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with running(shared_moderator(), max_body_bytes=2**20) as client:
        yield client


def asked(image: np.ndarray | bytes) -> dict[str, object]:
    data = image if isinstance(image, bytes) else encode_png(image)
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()}}


def test_the_answer_has_the_shape_of_openais(client: httpx.Client) -> None:
    answer = client.post("/v1/moderations", json={"model": "any", "input": [asked(RED), asked(GREY)]})
    assert answer.status_code == 200
    told = answer.json()
    knife, nothing = told["results"]
    assert told["id"] == answer.headers["x-request-id"]
    assert told["model"] == client.get("/v1/models").json()["data"][0]["id"]
    assert (knife["flagged"], nothing["flagged"]) == (True, False)
    assert [name for name, there in knife["categories"].items() if there] == ["knife"]
    assert set(knife["categories"]) == set(knife["category_scores"]) == set(knife["category_applied_input_types"])
    assert 0.8 < knife["category_scores"]["knife"] <= 1
    assert knife["tilth"]["action"] == "block"
    assert knife["tilth"]["boxes"][0]["category"] == "knife"


def test_one_image_needs_no_list(client: httpx.Client) -> None:
    told = client.post("/v1/moderations", json={"input": asked(GREY)}).json()
    assert [r["flagged"] for r in told["results"]] == [False]


def test_health_and_models_answer(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok", "model": shared_moderator().name}
    [model] = client.get("/v1/models").json()["data"]
    assert model["policy"] == "starter"
    assert "threat" in model["categories"]
    assert "image_url" in client.get("/openapi.json").text


def test_a_clients_request_id_comes_back_unless_it_could_forge_a_log(client: httpx.Client) -> None:
    good = client.post("/v1/moderations", json={"input": asked(GREY)}, headers={"x-request-id": "job-7.a"})
    bad = client.post("/v1/moderations", json={"input": asked(GREY)}, headers={"x-request-id": "a status=200 images=9"})
    assert good.headers["x-request-id"] == "job-7.a"
    assert bad.headers["x-request-id"].startswith("modr-")


CORRUPT = encode_png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))[:3000]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": [asked(GREY), asked(CORRUPT)]}, "input[1]: damaged image"),
        ({"input": [asked(b"hello")]}, "input[0]: not an image of a known format"),
        ({"input": [asked(b"")]}, "input[0]: empty file"),
        ({"input": [asked(encode_png(np.zeros((7100, 7100, 3), np.uint8)))]}, "input[0]: 7100 x 7100 pixels, the limit is 50000000"),
        ({"input": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/a.png"}}]}, "input[0]: http URLs are not fetched"),
        ({"input": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}, "input[0]: file URLs are not fetched"),
        ({"input": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,@@"}}]}, "input[0]: the data is not base64"),
        ({"input": [{"type": "image_url", "image_url": {"url": "data:text/html;base64,AA=="}}]}, "input[0]: expected data:image/"),
        ({"input": []}, "at least 1 item"),
        ({"input": [asked(GREY)] * 17}, "at most 16 items"),
        ({"input": "some words"}, "expected {input: [{type: image_url"),
        ({"input": [{"type": "text", "text": "some words"}]}, "input.0.type: Input should be 'image_url'"),
        ({}, "input: Field required"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_bad_request_gets_one_clear_line(client: httpx.Client, body: dict[str, object], message: str) -> None:
    answer = client.post("/v1/moderations", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert message in error["message"]
    assert "\n" not in error["message"]
    assert "some words" not in error["message"]


def test_a_body_that_is_not_json_gets_one_clear_line(client: httpx.Client) -> None:
    answer = client.post("/v1/moderations", content=b"{")
    assert answer.status_code == 400
    assert "Invalid JSON" in answer.json()["error"]["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused_before_it_is_read(client: httpx.Client, chunked: bool) -> None:
    body = b" " * (2**20 + 1)
    answer = client.post("/v1/moderations", content=iter([body[: 2**19], body[2**19 :]]) if chunked else body)
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == "the body is larger than 1 MiB"


def test_logs_hold_ids_and_counts_but_no_words(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tilth.serve"):
        client.post("/v1/moderations", json={"input": [asked(GREY), asked(RED)]}, headers={"x-request-id": "seen"})
        client.post("/v1/moderations", json={"input": [{"type": "image_url", "image_url": {"url": "http://private"}}]})
    [first, second] = [record.getMessage() for record in caplog.records if record.name == "tilth.serve"]
    assert first.startswith("id=seen status=200 images=2 allow=1 block=1 stage1=2 ms=")
    assert second.endswith("status=400")
    assert "private" not in caplog.text


def test_a_full_house_is_told_to_come_back() -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(_: np.ndarray) -> str:
        entered.set()
        leave.wait(60)
        return ""

    answers: list[httpx.Response] = []
    with running(replace(shared_moderator(), reader=slow), concurrency=1, waiting=0) as client:
        busy = threading.Thread(
            target=lambda: answers.append(client.post("/v1/moderations", json={"input": asked(GREEN)}))
        )
        busy.start()
        assert entered.wait(60)
        second = client.post("/v1/moderations", json={"input": asked(GREY)})
        leave.set()
        busy.join()
        third = client.post("/v1/moderations", json={"input": asked(GREY)})
    assert (second.status_code, second.headers["retry-after"]) == (503, "1")
    assert "too many requests" in second.json()["error"]["message"]
    assert [answers[0].status_code, third.status_code] == [200, 200]


def test_a_broken_model_is_a_500_that_tells_nothing() -> None:
    def broken(_: np.ndarray) -> str:
        raise RuntimeError("secret words")

    with running(replace(shared_moderator(), reader=broken)) as client:
        answer = client.post("/v1/moderations", json={"input": asked(GREEN)})
    assert answer.status_code == 500
    assert "secret" not in answer.text
