"""Who comes in: settled before a body is read, bounded in every way, and always answered."""

import base64
import json
import socket
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from runtime_graphs import GREEN, GREY, RED, plain, shared_moderator
from served import asked, running

from tilth.errors import InputError
from tilth.images import encode_png
from tilth.runtime.serving.admission import Door, Full, Limits, Tokens

PATH = "/v1/moderations"


class Slow:
    """Reads nothing, but takes until it is let go."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()

    def __call__(self, _: np.ndarray) -> str:
        self.entered.set()
        self.leave.wait(20)
        return ""


@contextmanager
def busy(image: np.ndarray = GREEN, **limits: float) -> Iterator[tuple[httpx.Client, list[httpx.Response]]]:
    """A server with a request inside whose image is being read; it is answered at the end, and so is `client.ask`."""
    slow, answers = Slow(), list[httpx.Response]()
    with running(replace(shared_moderator(), reader=slow), **limits) as client:
        asking: list[threading.Thread] = []

        def ask() -> None:
            asking.append(
                threading.Thread(target=lambda: answers.append(client.post(PATH, json={"input": asked(image)})))
            )
            asking[-1].start()

        client.ask = ask  # type: ignore[attr-defined]
        ask()
        try:
            assert slow.entered.wait(20)
            yield client, answers
        finally:
            slow.leave.set()
            for one in asking:
                one.join()


def said_to(client: httpx.Client, *head: str) -> bytes:
    """Send the head of a request and not a byte of its body; return what is answered to that."""
    with socket.create_connection((client.base_url.host, client.base_url.port)) as line:
        line.sendall("\r\n".join([f"POST {PATH} HTTP/1.1", "host: x", *head, "", ""]).encode())
        line.settimeout(20)
        told = b""
        while not told.endswith(b"}"):
            told += line.recv(65536)
        return told


@pytest.mark.parametrize(
    ("limits", "head"),
    [
        ({"requests": 1}, "content-length: 900"),
        ({"body_bytes": 1500, "bytes_inside": 1500}, "content-length: 1400"),
        ({"body_bytes": 1500, "bytes_inside": 1500}, "transfer-encoding: chunked"),
    ],
    ids=["requests", "bytes", "bytes that nobody knows"],
)
def test_a_full_house_says_when_to_come_back_before_a_byte_of_the_body_comes(
    limits: dict[str, float], head: str
) -> None:
    with busy(**limits) as (client, answers):
        told = said_to(client, head, "x-request-id: late")
        assert told.startswith(b"HTTP/1.1 429")
        assert b"retry-after: 1\r\n" in told
        assert b"x-request-id: late" in told
        assert json.loads(told.partition(b"\r\n\r\n")[2])["error"]["code"] == "overloaded"
        assert "the server is full; try again in 1 s" in told.decode()
        metrics = client.get("/metrics").text
        assert (
            f'tilth_requests_refused_total{{reason="full_{"requests" if "requests" in limits else "bytes"}"}} 1.0'
            in metrics
        )
        assert "tilth_requests_in_flight 1.0" in metrics
    assert answers[0].status_code == 200


def test_clients_that_hear_nothing_while_they_send_are_told_that_it_is_full_too() -> None:
    with busy(requests=1) as (client, _):
        request = urllib.request.Request(f"{client.base_url}{PATH}", data=b" " * (8 * 2**20), method="POST")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20)
        assert caught.value.code == 429
        assert json.load(caught.value)["error"]["code"] == "overloaded"
        caught.value.close()
        assert client.get("/healthz").status_code == 200


def test_pixels_of_others_are_waited_for_by_one_and_who_comes_after_that_is_sent_away() -> None:
    image = plain((20, 250, 20), (100, 60))
    with busy(image, pixels=9_100, pixels_inside=9_100) as (client, answers):
        client.ask()  # type: ignore[attr-defined]
        for _ in range(1000):
            if client.desk.door._turn.locked():  # type: ignore[attr-defined]  # the second one waits
                break
            time.sleep(0.02)
        late = client.post(PATH, json={"input": asked(GREY)})  # which is small enough to be let by
        assert late.status_code == 429
        assert "tilth_request_pixels_in_flight 6000.0" in client.get("/metrics").text
    assert [one.status_code for one in answers] == [200, 200]


def test_room_is_given_back_whatever_happens() -> None:
    with running(shared_moderator(), requests=2, body_bytes=4096, bytes_inside=4096) as client:
        for body in (b"{", b" " * 5000, json.dumps({"input": [asked(RED), asked(b"GIF89a")]}).encode()) * 3:
            assert client.post(PATH, content=body).status_code in (400, 413)
        assert client.post(PATH, json={"input": asked(GREY)}).status_code == 200
        assert (client.desk.door.requests, client.desk.door.bytes, client.desk.door.pixels) == (0, 0, 0)  # type: ignore[attr-defined]


def headed(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and breaks off there: whoever decodes it finds it damaged."""
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    chunk = (13).to_bytes(4, "big") + head + zlib.crc32(head).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk + bytes(4) + b"IDAT"


def test_sixteen_images_that_are_large_together_are_refused_by_their_headers() -> None:
    with running(shared_moderator()) as client:
        answer = client.post(PATH, json={"input": [asked(headed(7000, 7000))] * 16})
        alone = client.post(PATH, json={"input": asked(headed(7000, 7000))})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "input")
    told = "its images have 784,000,000 pixels together (16 of them), the limit is 100,000,000; send several requests"
    assert error["message"] == f"input: {told}"
    assert "damaged image" in alone.json()["error"]["message"], "it would have been, had any been decoded"


def test_no_request_is_left_hanging() -> None:
    with busy(timeout_s=0.4) as (client, answers):
        began = time.monotonic()
        late = client.post(PATH, json={"input": asked(GREEN)})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        assert late.json()["error"]["message"] == "no verdict within 0.4 s; try again later"
        assert time.monotonic() - began < 10
        assert client.post(PATH, json={"input": asked(GREY)}).status_code == 200, "others are not held up"
        slow_body = said_to(client, "content-length: 900")
        assert slow_body.startswith(b"HTTP/1.1 408")
        assert b"did not come within 0.4 s" in slow_body
    assert answers[0].status_code == 504


def test_the_time_to_come_back_is_what_those_inside_will_take_at_the_measured_rate() -> None:
    now = 100.0
    door = Door(Limits(requests=3), clock=lambda: now)
    for _ in range(200):
        with door.enter(10):
            now += 4
    with door.enter(10), door.enter(10), door.enter(None), pytest.raises(Full) as full:
        door.enter(10).__enter__()
    assert full.value.retry_after_s == 12
    assert (door.requests, door.bytes) == (0, 0)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"timeout_s": 0}, "timeout_s must be above 0, got 0"),
        ({"pixels_inside": 1000}, "pixels_inside must hold one request, which may have 100,000,000; got 1,000"),
        ({"bytes_inside": 1000}, "bytes_inside must hold one request"),
    ],
)
def test_limits_that_no_request_could_meet_are_refused(limits: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Limits(**limits)


TOKEN = "c0ffee00c0ffee00"


def test_only_who_has_a_token_may_ask_and_probes_need_none(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"# of the site\n\n{TOKEN}\n  another-token-of-another-team  \n")
    with running(shared_moderator(), tokens=Tokens.read(tmp_path / "tokens"), body_bytes=1000) as client:

        def post(authorization: str | None) -> httpx.Response:
            headers = {} if authorization is None else {"authorization": authorization}
            return client.post(PATH, json={"input": asked(GREY)}, headers=headers)

        for good in (f"Bearer {TOKEN}", f"bearer  {TOKEN}", "Bearer another-token-of-another-team"):
            assert post(good).status_code == 200
        for bad in (None, "", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer # of the site"):
            answer = post(bad)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            error = answer.json()["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
            assert TOKEN not in error["message"]
        assert client.get("/v1/models").status_code == 401
        assert {client.get(open_).status_code for open_ in ("/healthz", "/readyz", "/metrics", "/openapi.json")} == {
            200
        }
        large = client.post(PATH, content=b" " * 5000)
        assert large.status_code == 401, "before the body is looked at"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no token in it; expected one a line"),
        ("# none\n", "no token in it"),
        ("short\n", "tokens:1: expected a token of at least 16 ASCII characters"),
        (f"{TOKEN}\ntwo words are no token\n", "tokens:2: expected a token"),
        (None, "no file of tokens that can be read"),
    ],
)
def test_a_file_without_good_tokens_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "tokens").write_text(text)
    with pytest.raises(InputError, match=message):
        Tokens.read(tmp_path / "tokens")


def test_base64_and_pixels_are_counted_as_they_are() -> None:
    image = encode_png(plain((250, 20, 20), (30, 20)))
    with busy(plain((20, 250, 20), (30, 20))) as (client, _):
        told = client.get("/metrics").text
        assert "tilth_request_pixels_in_flight 600.0" in told
        sent = int(float(told.partition("\ntilth_request_bytes_in_flight ")[2].partition("\n")[0]))
        assert sent > len(base64.b64encode(image)) / 2
