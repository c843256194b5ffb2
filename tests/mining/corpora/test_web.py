"""Lists of URLs against a real server: its rules are kept, its tricks do not work, and each image is fetched once."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from noise import noise_image

from tilth.errors import InputError, Unavailable
from tilth.mining.corpora import web
from tilth.mining.corpora.addresses import encode
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
            "mit%20leer%20zeichen.png": (200, PICTURE, {}),
            "Nazar%C3%A9.png": (200, PICTURE, {}),
            "to-%C3%A9.png": (302, b"", {"Location": "/Nazaré.png".encode().decode("latin-1")}),
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
    threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
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


def test_a_dead_host_is_one_failure_and_a_dead_network_ends_the_run(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "TRIES", 1)
    dead = ["http://nowhere.invalid/a.png", "http://127.0.0.1:9/a.png", "http://wo-auch-nicht-ä.invalid/a.png"]
    half = corpus(tmp_path, [*dead, f"{server}/a.png"])
    for url in dead:
        with pytest.raises(InputError, match=r"cannot be reached|has no address"):
            half.read(url)
    assert half.read(f"{server}/a.png") == PICTURE
    with pytest.raises(Unavailable, match=r"no host of it can be reached: .*; check the network, then run again"):
        corpus(tmp_path, dead).read(dead[0])


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://h.example/with space.jpg", "http://h.example/with%20space.jpg"),
        ("http://h.example/a%20b.jpg?x=1,2&y=%C3%A9", "http://h.example/a%20b.jpg?x=1,2&y=%C3%A9"),
        ("http://h.example/100%.jpg", "http://h.example/100%.jpg"),
        ("https://fotos-münchen.example:8080/Nazaré.jpg", "https://xn--fotos-mnchen-jlb.example:8080/Nazar%C3%A9.jpg"),
        ("https://FAß.example", "https://xn--fa-hia.example/"),
        (
            "https://例え.テスト/画像.png?名=値",
            "https://xn--r8jz45g.xn--zckzah/%E7%94%BB%E5%83%8F.png?%E5%90%8D=%E5%80%A4",
        ),
        ("HTTP://my_bucket.example\\a\\b.jpg#part", "http://my_bucket.example/a/b.jpg"),
        ('http://h.example/a"b<c>.jpg?d"e', "http://h.example/a%22b%3Cc%3E.jpg?d%22e"),
        (
            "http://h.example/m~mv2.jpg/fill/w_303,h_170;q=80/x.webp",
            "http://h.example/m~mv2.jpg/fill/w_303,h_170;q=80/x.webp",
        ),
    ],
)
def test_addresses_are_encoded_as_browsers_do_and_only_once(url: str, sent: str) -> None:
    assert encode(url) == sent
    assert encode(sent) == sent


@pytest.mark.parametrize(
    "url", [f"http://{'a' * 64}.example/", "http://a b.example/", "http://h.example:99999/", "http://xn--\u0300.example/", "http://a..ä/", "http://%31/"]
)  # fmt: skip
def test_an_address_that_is_none_fails_alone(tmp_path: Path, server: str, url: str) -> None:
    found = corpus(tmp_path, [url, f"{server}/a.png"])
    with pytest.raises(InputError, match=r"not an http address|no name of a host"):
        found.read(url)
    assert found.read(f"{server}/a.png") == PICTURE


def test_addresses_with_spaces_and_letters_of_all_kinds_are_fetched(tmp_path: Path, server: str) -> None:
    urls = [f"{server}/mit leer zeichen.png", f"{server}/Nazaré.png", f"{server}/to-é.png"]
    found = corpus(tmp_path, urls)
    assert [item.key for item in found.items()] == urls
    assert [found.read(url) for url in urls] == [PICTURE] * 3
    assert found.about(urls[1]) == {"url": urls[1]}


A, B, C = "http://h.example/a,1.jpg", "http://h.example/b c.jpg", "http://h.example/é.jpg"
LISTS = {
    "lines.txt": (f"# mine\n{A}\n\n{B}\r\n{C}", "utf-8"),
    "marked.txt": (f"{A}\n{B}\n{C}\n", "utf-8-sig"),
    "windows.txt": (f"{A}\r\n{B}\r\n{C}\r\n", "utf-16"),
    "captions.txt": (f"{A}\ta cat\na dog\t{B}\n{C}\t\n", "utf-8"),
    "one line.txt": (f"{A};{B}; {C}", "utf-8"),
    "quoted.txt": (f'"{A}",\n"{B}",\n<{C}>\n', "utf-8"),
    "table.csv": (f'id,url\n1,"{A}"\n2,{B}\n3,{C}\n', "utf-8"),
    "marked.csv": (f'URL,id\n"{A}",1\n{B},2\n{C},3\n', "utf-8-sig"),
    "excel.csv": (f"id;Image_URL;licence\r\n1;{A};x\r\n2;{B};y\r\n3;{C};z\r\n", "utf-8-sig"),
    "unquoted.csv": (f"id,url\n1,{A}\n2,{B}\n3,{C}\n", "utf-8"),
    "tabs.tsv": (f"caption\turl\nx\t{A}\ny\t{B}\nz\t{C}\n", "utf-8"),
    "one column.csv": (f'url\n"{A}"\n{B}\n{C}\n', "utf-16"),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_come_in_many_shapes(tmp_path: Path, name: str) -> None:
    text, encoding = LISTS[name]
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert [item.key for item in open_corpus(str(tmp_path / name)).items()] == [A, B, C]


def test_a_wrong_line_of_a_list_fails_alone(tmp_path: Path) -> None:
    rows = [
        b"url,id",
        A.replace(",", "").encode() + b",1",
        b"http://h.example/caf\xe9.jpg,2",
        b"x,y,3",
        b'"' + b"q" * 200_000 + b'",4',
        b"\0,5",
    ]
    (tmp_path / "l.csv").write_bytes(b"\n".join(rows) + f"\n{C},6\n".encode())
    found = open_corpus(str(tmp_path / "l.csv"))
    keys = [item.key for item in found.items()]
    assert (keys[0], keys[-1]) == (A.replace(",", ""), C)
    assert len(keys) >= 5
    for key in keys[1:-1]:
        with pytest.raises(InputError, match=r"not an http address|no UTF-8"):
            found.read(key)


def test_a_list_without_urls_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("id,name\n1,x\n")
    with pytest.raises(InputError, match="no column url, image_url, src; it has id, name"):
        open_corpus(str(tmp_path / "list.csv"))
