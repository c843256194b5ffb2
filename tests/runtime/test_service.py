"""The service as others meet it: OpenAI's own client, Prometheus, forms, images elsewhere, many at once, and an end without haste."""

import itertools
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from noise import noise_image
from prometheus_client.parser import text_string_to_metric_families
from runtime_graphs import BLUE, GREEN, GREY, RED, plain, shared_bundle, shared_moderator, spoil
from served import asked, running

from tilth.errors import InputError
from tilth.images import encode_png
from tilth.runtime.bundles.bundle import load_bundle, seal
from tilth.runtime.bundles.champion import Champion
from tilth.runtime.serving.admission import Tokens
from tilth.runtime.serving.desk import Batching
from tilth.runtime.serving.remote import Remote

PATH = "/v1/moderations"
TOKEN = "c0ffee00c0ffee00"


@contextmanager
def openais(base_url: httpx.URL, token: str = TOKEN) -> Iterator[openai.OpenAI]:
    with httpx.Client(trust_env=False, timeout=60) as http:
        yield openai.OpenAI(base_url=f"{base_url}/v1", api_key=token, http_client=http, max_retries=0)


def test_openais_own_client_asks_about_texts_images_and_both() -> None:
    with running(shared_moderator(), tokens=Tokens([TOKEN])) as client, openais(client.base_url) as ai:
        words = ai.moderations.create(input="WE WILL FIND YOU").results[0]
        assert words.flagged
        assert words.categories.model_extra["threat"] is True  # type: ignore[index]
        several = ai.moderations.create(model="any", input=["WE WILL FIND YOU", "WET FLOOR"])
        assert [one.flagged for one in several.results] == [True, False]
        both = ai.moderations.create(input=[asked(RED), {"type": "text", "text": "WET FLOOR"}, asked(GREY)])  # type: ignore[list-item]
        assert [one.flagged for one in both.results] == [True, False, False]
        assert both.results[0].category_scores.model_extra["knife"] > 0.8  # type: ignore[index, operator]
        assert both.id.startswith("modr-")
        assert both.model == shared_moderator().name == ai.models.list().data[0].id
        with pytest.raises(openai.BadRequestError, match=r"input\[0\]: http URLs are not fetched") as bad:
            ai.moderations.create(input=[{"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}])
        assert bad.value.param == "input[0]"
        with openais(client.base_url, "x" * 20) as stranger, pytest.raises(openai.AuthenticationError):
            stranger.moderations.create(input="hello")


def test_verdicts_in_a_batch_of_many_requests_are_those_that_each_image_gets_alone() -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (12, 3))
    images = [RED, BLUE, GREY, *(plain(tuple(rgb), (40 + i, 30)) for i, rgb in enumerate(drawn))]
    alone = [shared_moderator().moderate([image])[0] for image in images]
    with running(shared_moderator()) as client, ThreadPoolExecutor(16) as clients:
        requests = [[i, (i + k) % len(images)] for k in range(4) for i in range(len(images))]
        answers = clients.map(lambda r: client.post(PATH, json={"input": [asked(images[i]) for i in r]}), requests)
        for request, answer in zip(requests, answers, strict=True):
            for i, told in zip(request, answer.json()["results"], strict=True):
                assert told["tilth"]["action"] == alone[i].action.value
                assert told["tilth"]["stage"] == alone[i].stage
                assert told["category_scores"] == pytest.approx(dict(alone[i].scores), abs=2e-6)
        sizes = samples(client)["tilth_batch_size_sum"][(("part", "stage1"),)]
        batches = samples(client)["tilth_batch_size_count"][(("part", "stage1"),)]
    assert sizes == sum(map(len, requests))
    assert batches < sizes, "some were judged together"


def test_one_bad_image_fails_its_own_request_alone() -> None:
    damaged = encode_png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))[:3000]
    with running(shared_moderator()) as client, ThreadPoolExecutor(12) as clients:
        bodies = [{"input": asked(damaged if i % 3 == 0 else RED)} for i in range(24)]
        answers = [*clients.map(lambda body: client.post(PATH, json=body), bodies)]
    assert [one.status_code for one in answers] == [400 if i % 3 == 0 else 200 for i in range(24)]


def test_files_and_texts_come_in_a_form_too() -> None:
    with running(shared_moderator()) as client:
        files = [
            ("input", ("a.png", encode_png(RED), "image/png")),
            ("input", (None, "WE WILL FIND YOU")),
            ("photo", ("b.bin", encode_png(GREY))),
            ("model", (None, "any")),
        ]
        told = client.post(PATH, files=files).json()["results"]
        assert [one["flagged"] for one in told] == [True, True, False]
        for sent, message in [
            ({"files": [("input", ("a.png", b"GIF89a"))]}, "input[0]: damaged image"),
            ({"files": [("other", (None, "hello"))]}, "input[0]: a field that is neither a file nor input; send it as curl"),
            ({"files": [("model", (None, "any"))]}, "input: the form holds neither a file nor a text"),
            ({"files": [("input", ("a.png", encode_png(GREY)))] * 17}, "input: it has 17 elements, at most 16"),
            ({"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data"}}, "the body is no form that can be read"),
            ({"content": b"what", "headers": {"content-type": "multipart/form-data; boundary=x"}}, "the body is no form"),
            (
                {
                    "content": b'--x\r\ncontent-disposition: form-data; name="input"; filename="a"\r\n\r\nGIF',
                    "headers": {"content-type": "multipart/form-data; boundary=x"},
                },
                "the body is a form that breaks off",
            ),
        ]:  # fmt: skip
            answer = client.post(PATH, **sent)  # type: ignore[arg-type]
            assert answer.status_code == 400
            assert answer.json()["error"]["message"].startswith(message)


def samples(client: httpx.Client) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """What `/metrics` says, as Prometheus reads it."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_metrics_say_what_was_done_and_nothing_of_what_was_sent() -> None:
    with running(shared_moderator()) as client:
        client.post(PATH, json={"input": [asked(RED), asked(GREY), "WE WILL FIND YOU"]})
        client.post(PATH, json={"input": "secret " * 2000})
        client.get("/secret-path")
        client.request("SECRET", "/healthz")
        text, told = client.get("/metrics").text, samples(client)
    posted = (("method", "POST"), ("route", PATH))
    assert told["tilth_http_requests_total"][(*posted, ("status", "200"))] == 1
    assert told["tilth_http_requests_total"][(*posted, ("status", "400"))] == 1
    assert told["tilth_http_requests_total"][(("method", "GET"), ("route", "other"), ("status", "404"))] == 1
    assert told["tilth_http_requests_total"][(("method", "other"), ("route", "/healthz"), ("status", "405"))] == 1
    assert told["tilth_http_request_duration_seconds_count"][posted] == 2
    assert told["tilth_judged_total"][(("action", "block"), ("of", "image"), ("stage", "1"))] == 1
    assert told["tilth_judged_total"][(("action", "allow"), ("of", "image"), ("stage", "1"))] == 1
    assert told["tilth_requests_refused_total"][(("reason", "wrong"),)] == 1
    assert told["tilth_batch_size_sum"][(("part", "texts"),)] == 1
    assert told["tilth_queue_length"][(("part", "stage1"),)] == told["tilth_requests_in_flight"][()] == 0
    assert told["tilth_ready"][()] == 1
    assert dict(next(iter(told["tilth_bundle_info"])))["name"] == shared_moderator().name
    assert "process_resident_memory_bytes" in told
    assert not re.search("secret|FIND", text, re.I)


def test_the_interface_is_described_as_it_is() -> None:
    with running(shared_moderator()) as client:
        told = client.get("/openapi.json").json()
        post = told["paths"][PATH]["post"]
        assert set(post["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
        assert {"200", "400", "401", "408", "413", "429", "500", "503", "504"} <= set(post["responses"])
        for path, methods in told["paths"].items():
            for method in methods:
                assert client.request(method, path).status_code in (200, 400), path


class Elsewhere(BaseHTTPRequestHandler):
    """A host with images, and with tricks."""

    def do_GET(self) -> None:
        name, port = self.path.strip("/"), self.server.server_address[1]
        kind = "text/html" if name == "page" else "image/png"
        moves = {
            "moved": f"http://127.0.0.1:{port}/a.png",
            "ring": "/ring",
            "out": f"http://localhost:{port}/a.png",
            "file": "file:///etc/hostname",
        }
        self.send_response(302 if name in moves else 404 if name == "absent" else 200)
        self.send_header("Location", moves.get(name, "/"))
        self.send_header("Content-Type", kind)
        self.end_headers()
        if name == "slow":
            time.sleep(2)
        self.wfile.write(b"x" * 300_000 if name == "large" else noise_image(7))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as served:
        threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
        yield served.server_port
        served.shutdown()


def test_images_are_fetched_from_hosts_that_were_named_and_from_no_other(
    elsewhere: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = socket.getaddrinfo

    def inward(host: str, *rest: object, **more: object) -> object:
        return looked_up("127.0.0.1" if host == "cdn.inward.example" else host, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", inward)
    stars = (f"*.inward.example:{elsewhere}", f"*.invalid:{elsewhere}")
    remote = Remote([f"127.0.0.1:{elsewhere}", *stars], max_bytes=200_000, timeout_s=1)
    with running(shared_moderator(), remote=remote) as client:

        def post(url: str) -> httpx.Response:
            return client.post(PATH, json={"input": [asked(GREY), {"type": "image_url", "image_url": {"url": url}}]})

        here = f"http://127.0.0.1:{elsewhere}"
        for good in (f"{here}/a.png", f"{here}/moved", f" {here}/a.png?x=1"):
            answer = post(good)
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["results"]) == 2
        for bad, message in [
            (f"http://localhost:{elsewhere}/a.png", "images are not fetched from this host"),
            ("http://127.0.0.1/a.png", "images are not fetched from this host"),
            (f"http://127.0.0.1:{elsewhere}@example.org/a.png", "images are not fetched from this host"),
            (f"http://example.org\\@127.0.0.1:{elsewhere}/a.png", "images are not fetched from this host"),
            ("http://[::1/a.png", "the image's URL cannot be read"),
            (f"{here}/out", "images are not fetched from this host"),
            (f"{here}/file", "images are not fetched from this host"),
            (f"{here}/ring", "the image could not be fetched after 3 redirections"),
            (f"{here}/absent", "the image could not be fetched, its host answered 404"),
            (f"{here}/page", "what was fetched is not called an image"),
            (f"{here}/large", "the image is larger than 0.19"),
            (f"{here}/slow", "the image could not be fetched within 1 s"),
            (f"http://cdn.inward.example:{elsewhere}/a.png", "images are not fetched from this host"),  # by its address
            (f"http://a.invalid:{elsewhere}/a.png", "the image could not be fetched, its host cannot be reached"),
        ]:  # fmt: skip
            answer = post(bad)
            assert answer.status_code == 400, bad
            assert answer.json()["error"]["message"].startswith(f"input[1]: {message}"), (bad, answer.text)
            assert answer.json()["error"]["param"] == "input[1]"


def test_a_host_that_was_not_named_is_not_asked_even_at_a_public_address(
    elsewhere: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilth.runtime.serving.remote.is_public", lambda address: True)
    with running(shared_moderator(), remote=Remote(["*.localhost", "a.example"], max_bytes=200_000)) as client:
        body = {"input": {"type": "image_url", "image_url": {"url": f"http://localhost:{elsewhere}/a.png"}}}
        answer = client.post(PATH, json=body)
    assert answer.json()["error"]["message"].startswith("input[0]: images are not fetched from this host")


@pytest.mark.parametrize("host", ["", "http://a.org", "a.org/x", "*", "a.*.org", "user@a.org"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(InputError, match=r"--allow-host .*expected a host such as images\.example\.org"):
        Remote([host], max_bytes=1)


def test_numbers_of_a_batch_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="stage1 must be at least 1, got 0"):
        Batching(stage1=0)


def test_while_the_bundle_is_loaded_the_server_lives_but_is_not_ready() -> None:
    with running(None) as client:
        assert client.get("/healthz").status_code == 200
        assert (client.get("/readyz").status_code, client.get("/readyz").json()) == (503, {"status": "loading"})
        answer = client.post(PATH, json={"input": asked(GREY)})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert client.get("/v1/models").status_code == 503
        assert samples(client)["tilth_ready"][()] == 0
        client.desk.change(shared_moderator())  # type: ignore[attr-defined]
        assert client.post(PATH, json={"input": asked(GREY)}).status_code == 200
        assert client.get("/readyz").json() == {"status": "ready", "model": shared_moderator().name}


SERVE = """
import sys, time
from pathlib import Path
from tilth.runtime.serving import app, server
from tilth.runtime.stages.reading import Reader
app.FOLLOW_S = 0.1
Reader.__call__ = lambda self, image: time.sleep(2) or ""
server.serve(Path(sys.argv[1]), port=int(sys.argv[2]), threads=1, drain_s=1)
"""


@contextmanager
def process_of(bundle: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """A server in a process of its own, ready; it reads the words of an image for two seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as stream:
        process = subprocess.Popen([sys.executable, "-c", SERVE, str(bundle), str(port)], stderr=stream)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            for _ in range(300):
                try:
                    if client.get("/readyz").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
            yield process, client
    finally:
        process.kill()
        process.wait()


def test_told_to_end_it_finishes_what_is_inside_takes_what_still_comes_and_ends_with_0(tmp_path: Path) -> None:
    with process_of(shared_bundle(), tmp_path / "log") as (process, client), ThreadPoolExecutor() as clients:
        inside = clients.submit(client.post, PATH, json={"input": asked(GREEN)})
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
        assert client.post(PATH, json={"input": asked(GREY)}).status_code == 200
        assert inside.result().status_code == 200
        assert process.wait(20) == 0
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert any("told to end" in one["message"] for one in events)


def test_promotions_back_and_forth_under_load_fail_no_request(tmp_path: Path) -> None:
    for i, name in enumerate(("one", "two")):
        seal(shutil.copytree(shared_bundle(), tmp_path / name), clear_below=0.01 * (i + 1))
    champion = Champion(tmp_path / "champion")
    champion.promote(tmp_path / "one", time="2026-11-29T12:00:00Z")
    names = [load_bundle(tmp_path / name, threads=1).name for name in ("one", "two")]
    served: list[tuple[int, str]] = []
    done = threading.Event()
    with process_of(champion.folder, tmp_path / "log") as (_, client), ThreadPoolExecutor() as clients:

        def ask() -> None:
            while not done.is_set():
                answer = client.post(PATH, json={"input": [asked(GREY), asked(RED)]})
                served.append((answer.status_code, answer.json().get("model", "")))

        asking = [clients.submit(ask) for _ in range(3)]
        for name in itertools.islice(itertools.cycle(("two", "one")), 3):
            champion.promote(tmp_path / name, time="2026-11-29T12:00:00Z")
            for _ in range(100):
                if served and served[-1][1] == names[name == "two"]:
                    break
                time.sleep(0.1)
        done.set()
        for one in asking:
            one.result()
    assert {status for status, _ in served} == {200}
    changes = [name for name, _ in itertools.groupby(name for _, name in served)]
    assert set(changes) == set(names)
    assert len(changes) >= 4


@pytest.mark.parametrize("wrong", ["a byte is changed", "a model says no numbers"])
def test_a_bundle_that_cannot_be_served_ends_the_command_in_one_line(tmp_path: Path, wrong: str) -> None:
    bundle = shutil.copytree(shared_bundle(), tmp_path / "bundle")
    if "byte" in wrong:
        (bundle / "classifier.json").write_text((bundle / "classifier.json").read_text() + " ")
    else:
        spoil(bundle / "classifier.onnx")
        seal(bundle)
    command = [sys.executable, "-m", "tilth.pipeline.cli.main", "serve", str(bundle), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    last = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, last["event"]) == (2, "error")
    assert ("classifier.json was changed" if "byte" in wrong else "classifier.onnx") in last["message"]
