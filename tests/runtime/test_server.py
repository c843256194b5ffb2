"""The endpoint, asked over a real socket by a real client."""

import base64
import json
import logging
import socket
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from runtime_graphs import GREEN, GREY, RED, shared_moderator
from served import asked, running

from tilth.errors import InputError
from tilth.images import encode_png
from tilth.policy import Policy
from tilth.runtime.serving.server import serve


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with running(shared_moderator(), body_bytes=2**20) as client:
        yield client


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
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "model": shared_moderator().name}
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


def one(url: object) -> dict[str, object]:
    return {"input": [{"type": "image_url", "image_url": {"url": url}}]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": [asked(GREY), asked(CORRUPT)]}, "input[1]: damaged image"),
        ({"input": [asked(b"hello")]}, "input[0]: not an image of a known format"),
        ({"input": [asked(b"")]}, "input[0]: empty file"),
        ({"input": [asked(encode_png(np.zeros((7100, 7100, 3), np.uint8)))]}, "input[0]: 7100 x 7100 pixels, the limit is 50000000"),
        (one("http://169.254.169.254/a.png"), "input[0]: http URLs are not fetched; send the image itself"),
        (one("file:///etc/passwd"), "input[0]: file URLs are not fetched"),
        (one("data:image/png;base64,@@"), "input[0]: the data is not base64"),
        (one("some words.png"), "input[0]: the data is not base64; expected data:image/png;base64,"),
        (one("data:image/png;base64"), "input[0]: the data: URL has no comma"),
        (one("data:text/html;base64,AAAA"), "input[0]: not an image of a known format"),
        (json.dumps(one("data:image/png;base64,\ud800%41")).encode(), "input[0]: the data is not base64"),
        (json.dumps(one("data:image/png,\ud800")).encode(), "input[0]: not an image of a known format"),
        (one(7), "input[0].image_url.url: expected the image's data: URL, got a number; send {"),
        ({"input": [{"type": "image_url"}]}, "input[0].image_url.url: expected the image's data: URL, got null"),
        ({"input": []}, "input: it is an empty list; send {"),
        ({"input": [asked(GREY)] * 17}, "input: it has 17 elements, at most 16 are judged at once; send several requests"),
        ({"input": None}, "input: it is null; send {"),
        ({"input": [3]}, "input[0]: it is a number; send {"),
        ({"input": [{"type": "audio", "audio": "some words"}]}, "input[0]: its type is none that is judged here; expected"),
        ({"input": [{"text": "some words"}]}, "input[0]: its type is missing; expected image_url or text"),
        ({"input": [{"type": "text", "text": ["some words"]}]}, "input[0].text: expected a text, got a list"),
        ({"input": "  "}, "input: it is empty, there is nothing to judge"),
        ({"input": ["some words " * 400]}, "input[0]: it has 4,400 characters, at most 4,096 are judged at once; send it in parts"),
        ({}, "input: it is missing; send {"),
        ([], "the body is a list, not an object; send {"),
        (b"{", "the body is not JSON (line 1, column 2); send {"),
        (b"", "the body is not JSON (it is empty)"),
        (b"\xff\xfe\xfd", "the body is not JSON that can be read"),
        (b"[" * 200_000, "the body is not JSON that can be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_bad_request_gets_one_clear_line(client: httpx.Client, body: object, message: str) -> None:
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = client.post("/v1/moderations", **sent)  # type: ignore[arg-type]
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]
    assert error["message"].startswith(error["param"] or "the body")
    assert "\n" not in error["message"]
    assert "some words" not in error["message"]


PNG = encode_png(RED)


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64," + "\r\n".join(textwrap.wrap(base64.b64encode(PNG).decode(), 76)) + "\n",
        "data:image/png;base64," + base64.b64encode(PNG + b"\0").decode().rstrip("="),
        "data:image/png;base64," + base64.urlsafe_b64encode(PNG).decode(),
        "data:image/png;base64," + quote(base64.b64encode(PNG).decode(), safe=""),
        "data:application/octet-stream;base64," + base64.b64encode(PNG).decode(),
        "data:image/png;charset=utf-8;name=a.png;BASE64," + base64.b64encode(PNG).decode(),
        "DATA:;base64, " + base64.b64encode(PNG).decode(),
        "data:image/png," + quote(PNG, safe=""),
        base64.b64encode(PNG).decode(),
    ],
    ids=["in lines", "unpadded", "URL-safe", "escaped", "any kind", "parameters", "no kind", "not base64", "no URL"],
)
def test_an_image_comes_as_clients_send_it(client: httpx.Client, url: str) -> None:
    answer = client.post("/v1/moderations", json=one(url))
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"][0]["categories"]["knife"]
    assert client.post("/v1/moderations", json={"input": {"type": "image_url", "image_url": url}}).status_code == 200


def test_texts_are_judged_beside_images_and_each_has_a_result_of_its_own(client: httpx.Client) -> None:
    threat = {"type": "text", "text": "WE WILL FIND YOU"}
    told = client.post("/v1/moderations", json={"input": [asked(RED), threat, "WET FLOOR", asked(GREY)]}).json()
    knife, words, harmless, _ = told["results"]
    assert [r["flagged"] for r in told["results"]] == [True, True, False, False]
    assert [name for name, there in words["categories"].items() if there] == ["threat"]
    assert words["category_applied_input_types"]["threat"] == ["text"]
    assert words["category_applied_input_types"]["knife"] == []  # a text cannot show one
    assert knife["category_applied_input_types"]["knife"] == ["image"]
    assert "FIND" not in json.dumps(told)
    assert harmless["category_scores"]["threat"] < 0.5
    alone = client.post("/v1/moderations", json={"input": "WE WILL FIND YOU"}).json()["results"]
    assert [one["category_scores"] for one in alone] == [words["category_scores"]]
    odd = client.post("/v1/moderations", content=b'{"input": ["half \\ud83d of a pair \\u0000"]}')
    assert odd.status_code == 200


@pytest.mark.parametrize("lacks", ["a language model", "a category of words"])
def test_a_bundle_that_judges_images_alone_says_so(lacks: str) -> None:
    whole = shared_moderator()
    pictured = Policy(policy="p", version=1, categories=whole.policy.pictured)
    alone = replace(whole, stage2=None, reader=None) if "model" in lacks else replace(whole, policy=pictured)
    with running(alone) as client:
        answer = client.post("/v1/moderations", json={"input": [asked(GREY), "hello"]})
        assert answer.status_code == 400
        why = "no language model" if "model" in lacks else "no category that words alone decide"
        assert answer.json()["error"]["message"] == f"texts are not judged here, as the bundle has {why}; send images"


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "says"),
    [
        (
            "GET",
            "/v1/moderation",
            404,
            "unknown_url",
            "there is nothing at GET /v1/moderation; there are: POST /v1/moderations",
        ),
        ("POST", "/", 404, "unknown_url", "there is nothing at POST /"),
        ("POST", "/v1/moderations/", 404, "unknown_url", "there is nothing at POST /v1/moderations/; there are: POST"),
        ("GET", "/v1/moderations", 405, "method_not_supported", "GET /v1/moderations is not answered; there are: POST"),
        ("DELETE", "/v1/models", 405, "method_not_supported", "DELETE /v1/models is not answered"),
    ],
)
def test_wrong_addresses_and_methods_are_answered_in_the_same_shape(
    client: httpx.Client, method: str, path: str, status: int, code: str, says: str
) -> None:
    answer = client.request(method, path, headers={"x-request-id": "lost"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert error["message"].startswith(says)
    assert answer.headers["x-request-id"] == "lost"
    assert client.head("/healthz").status_code == 200


HEAD = b"POST /v1/moderations HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"a" * 99],
        [b"what\r\n\r\n"],
        [HEAD + b"content-length: many\r\n\r\n{}"],
        [HEAD + b"transfer-encoding: chunked\r\n\r\n", b"zz\r\n{}\r\n0\r\n\r\n"],
        [HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", b"what\r\n"],
        [HEAD + b"content-length: 0\r\n\r\n", b"what\r\n\r\n"],
        [b"GET /v1/moderations HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade, close\r\n\r\n"],
    ],
    ids=["TLS", "no request", "no length", "a broken body", "a body that breaks off", "after an answer", "a websocket"],
)
def test_what_is_no_http_is_answered_in_the_same_shape_too(client: httpx.Client, parts: list[bytes]) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port)) as line:
        for part in parts:
            line.sendall(part)
            time.sleep(0.05)
        line.settimeout(20)
        told = b"".join(iter(lambda: line.recv(65536), b""))
    head, _, body = told[told.rindex(b"HTTP/1.1 4") :].partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    assert f"content-length: {len(body)}".encode() in head
    error = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error"
    assert "is no HTTP/1.1" in error["message"] or "is not answered" in error["message"]


def test_a_packed_body_is_refused_in_words(client: httpx.Client) -> None:
    answer = client.post("/v1/moderations", content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert answer.status_code == 400
    assert "the body is packed ('gzip')" in answer.json()["error"]["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused_and_even_a_client_that_hears_nothing_while_it_sends_is_told(
    client: httpx.Client, chunked: bool
) -> None:
    body = b" " * (6 * 2**20)
    parts = iter([body[: 2**19], body[2**19 :]]) if chunked else body
    request = urllib.request.Request(f"{client.base_url}/v1/moderations", data=parts, method="POST")  # type: ignore[arg-type]
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
    assert caught.value.code == 413
    assert json.load(caught.value)["error"]["message"] == "the body is larger than 1 MiB; send fewer or smaller images"


def test_a_client_that_hangs_up_is_called_what_it_is(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    head = b"POST /v1/moderations HTTP/1.1\r\nhost: x\r\nx-request-id: gone\r\ncontent-length: 999\r\n\r\n"
    with caplog.at_level(logging.INFO):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as line:
            line.sendall(head + b'{"inp')
            time.sleep(0.2)
        deadline = time.monotonic() + 20
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.02)
    [record] = caplog.records
    assert record.getMessage() == "id=gone status=499 the client hung up after 5 bytes of its request"
    assert record.levelno == logging.INFO
    assert record.exc_info is None


def test_logs_hold_ids_and_counts_but_no_words(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tilth.serve"):
        client.post("/v1/moderations", json={"input": [asked(GREY), asked(RED)]}, headers={"x-request-id": "seen"})
        client.post("/v1/moderations", json={"input": [{"type": "image_url", "image_url": {"url": "http://private"}}]})
    [first, second] = [record.getMessage() for record in caplog.records if record.name == "tilth.serve"]
    assert first.startswith("id=seen status=200 images=2 allow=1 block=1 stage1=2 ms=")
    assert "FIND" not in caplog.text
    assert second.endswith("status=400")
    assert "private" not in caplog.text


def test_a_broken_model_is_a_500_that_tells_nothing() -> None:
    def broken(_: np.ndarray) -> str:
        raise RuntimeError("secret words")

    with running(replace(shared_moderator(), reader=broken)) as client:
        answer = client.post("/v1/moderations", json={"input": asked(GREEN)})
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            InputError, match=rf"cannot listen on 127\.0\.0\.1:{port} \(Address already in use\); choose"
        ):
            serve(tmp_path, port=port)
