"""Lists of URLs against a real server: its rules are kept, its tricks do not work, and each image is fetched once."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from noise import noise_image

from tilth.errors import InputError
from tilth.mining.corpora import web
from tilth.mining.corpora.opening import open_corpus
from tilth.mining.corpora.web import UrlCorpus

PICTURE = noise_image(7)
asked: Counter[str] = Counter()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked[self.path] += 1
        name = self.path.strip("/")
        answers = {
            "robots.txt": (200, b"User-agent: *\nDisallow: /private/\n", {}),
            "a.png": (200, PICTURE, {}),
            "noai.png": (200, PICTURE, {"X-Robots-Tag": "noindex, noai"}),
            "moved.png": (302, b"", {"Location": "/a.png"}),
            "ring.png": (302, b"", {"Location": "/ring.png"}),
            "inward.png": (302, b"", {"Location": "http://10.0.0.1/secret.png"}),
            "sideways.png": (302, b"", {"Location": "file:///etc/hostname"}),
            "large.png": (200, b"x" * 4096, {}),
            "flaky.png": (503, b"", {}) if asked[self.path] < 2 else (200, PICTURE, {}),
            "down.png": (500, b"", {}),
        }
        status, data, headers = answers.get(name, (404, b"", {}))
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    asked.clear()
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def corpus(tmp_path: Path, urls: list[str]) -> UrlCorpus:
    (tmp_path / "list.txt").write_text("# mined from the crawl\n" + "\n".join(urls) + "\n")
    return UrlCorpus(tmp_path / "list.txt", tmp_path / "kept", allowed=lambda address: address == "127.0.0.1")


def test_images_are_fetched_once_and_kept(tmp_path: Path, server: str) -> None:
    urls = [f"{server}/a.png", f"{server}/moved.png"]
    found = corpus(tmp_path, urls)
    assert [item.key for item in found.items()] == urls
    for _ in range(3):
        assert [found.read(url) for url in urls] == [PICTURE, PICTURE]
    assert asked["/a.png"] == 2  # once for itself, once for the address that leads to it
    assert asked["/robots.txt"] == 1
    assert found.about(urls[0]) == {"url": urls[0]}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/private/x.png", "robots.txt forbids it"),
        ("/noai.png", "does not want it used for AI"),
        ("/gone.png", "answered 404"),
        ("/ring.png", "more than 5 redirects"),
        ("/inward.png", "10.0.0.1 is not a public address"),
        ("/sideways.png", "not an http address"),
        ("/down.png", "answered 500; try again later"),
    ],
)
def test_what_may_not_or_cannot_be_had_is_said(
    tmp_path: Path, server: str, path: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "TRIES", 2)
    with pytest.raises(InputError, match=words):
        corpus(tmp_path, []).read(server + path)
    assert asked["/private/x.png"] == 0
    assert not list((tmp_path / "kept").rglob("*"))


def test_a_passing_failure_is_tried_again(tmp_path: Path, server: str) -> None:
    assert corpus(tmp_path, []).read(f"{server}/flaky.png") == PICTURE
    assert asked["/flaky.png"] == 2


def test_an_endless_answer_is_cut_off(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="larger than"):
        corpus(tmp_path, []).read(f"{server}/large.png")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/a.png", "http://localhost:1/a.png", "http://[::1]:1/a.png", "http://0.0.0.0:1/a"]
)
def test_private_addresses_are_never_connected_to(tmp_path: Path, url: str) -> None:
    (tmp_path / "list.csv").write_text(f"id,URL\n1,{url}\n")
    found = open_corpus(str(tmp_path / "list.csv"), tmp_path / "kept")
    assert [item.key for item in found.items()] == [url]
    with pytest.raises(InputError, match="is not a public address"):
        found.read(url)


@pytest.mark.parametrize(
    "url", ["ftp://example.org/a.png", "http://user:pass@example.org/a.png", "http://", "//x", "http://[bad"]
)
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="not an http address"):
        corpus(tmp_path, []).read(url)


def test_a_dead_host_is_one_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TRIES", 1)
    with pytest.raises(InputError, match=r"cannot be reached|has no address"):
        corpus(tmp_path, []).read("http://nowhere.invalid/a.png")
    with pytest.raises(InputError, match="cannot be reached"):
        corpus(tmp_path, []).read("http://127.0.0.1:9/a.png")


def test_a_list_without_urls_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("id,name\n1,x\n")
    with pytest.raises(InputError, match="no column url, image_url, src; it has id, name"):
        open_corpus(str(tmp_path / "list.csv"))
