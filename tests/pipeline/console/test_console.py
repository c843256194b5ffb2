"""The console in a real Chromium: the whole way from a folder to a served model and back, on a world of next to nothing."""

import base64
import http.client
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest
from console_desk import Desk, fill, press, reach

from tilth.runtime.bundles.bundle import seal
from tilth.runtime.bundles.champion import Champion
from tilth.starter.world.files import write_world

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytest.importorskip("nicegui", reason="nicegui is not installed: pip install 'tilth[console]'")

KINDS = {"knife": "knife, blade", "pill": "pill, capsule"}
PAGES = ("/", "/new", "/policy?folder=photos", "/recipe?folder=photos", "/run/photos", "/run/photos/pictures", "/run/photos/review",
         "/run/photos/model", "/use")  # fmt: skip
NOW = "2026-12-01T00:00:00Z"
SOON_MS = 60_000


@pytest.fixture(scope="module")
def desk(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A console beside a folder with a few drawn scenes, in train/ and test/."""
    folder = tmp_path_factory.mktemp("console")
    write_world(folder / "world", labelled=60, corpus=0, test=36, workers=1)
    (folder / "photos").mkdir()
    for part, of in (("train", "labelled"), ("test", "test")):
        (folder / "photos" / part).symlink_to(folder / "world" / of)
    made = Desk(folder)
    made.start()
    yield made
    made.end()
    for note in made.runs.glob("*/console.json"):
        pid = json.loads(note.read_text())["pid"]
        if psutil.pid_exists(pid):
            psutil.Process(pid).terminate()


@pytest.fixture(scope="module")
def context(browser: "Browser", desk: Desk) -> "Iterator[BrowserContext]":
    with browser.new_context(viewport={"width": 1280, "height": 1000}) as made:
        made.set_default_timeout(SOON_MS)
        yield made


@pytest.fixture(scope="module")
def begun(context: "BrowserContext", desk: Desk) -> dict[str, Any]:
    """Walk with the keyboard alone from nothing to a run that was started, and tell what was seen on the way."""
    tab, seen = context.new_page(), dict[str, Any]()
    tab.goto(desk.url)
    seen["address"], seen["empty"] = tab.url, tab.locator("#main").inner_text()
    press(tab, "Begin with a folder")
    tab.wait_for_url("**/new")
    fill(tab, "Folder on this machine", "nowhere")
    tab.get_by_text("nowhere: no such folder").wait_for()
    seen["may_go_on"] = tab.get_by_role("button", name="Next: the policy").is_enabled()
    tab.keyboard.press("Control+A")
    tab.keyboard.type("photos")
    tab.get_by_text("96 images, with train and test").wait_for()
    press(tab, "Next: the policy")
    tab.wait_for_url("**/policy?*")
    fill(tab, "Name of the policy", "things")
    for number, (name, prompts) in enumerate(KINDS.items(), 1):
        if number > 1:
            press(tab, "Add a category")
            tab.locator("legend", has_text=f"Category {number}").wait_for()
            tab.locator("fieldset.category").last.locator("legend").evaluate("e => { e.tabIndex = -1; e.focus(); }")
        fill(tab, "Name", name)
        fill(tab, "Definition", f"Any {name}.")
        if number == 1:
            tab.get_by_text("at least one prompt").wait_for()
            seen["wrong"] = tab.locator(".verdict").inner_text()
        fill(tab, "Looks for", prompts)
    tab.get_by_text(f"Fine: things v1, {len(KINDS)} categories").wait_for()
    press(tab, "Next: the recipe")
    tab.wait_for_url("**/recipe?*")
    seen["recipe"] = tab.locator("#main").inner_text()
    press(tab, "Next: the plan")
    tab.get_by_role("button", name="Start").wait_for()
    seen["plan"] = tab.locator("#main").inner_text()
    press(tab, "Start")
    tab.wait_for_url("**/run/photos")
    other = context.new_page()  # somebody else looks on
    other.goto(tab.url)
    for each in (tab, other):
        each.locator(".steps .done").first.wait_for()
    seen["both"] = [each.locator(".steps b").all_inner_texts() for each in (tab, other)]
    seen["pid"] = json.loads((desk.runs / "photos" / "console.json").read_text())["pid"]
    other.close()
    return {**seen, "tab": tab}


@pytest.fixture(scope="module")
def done(begun: dict[str, Any], context: "BrowserContext", desk: Desk) -> "Page":
    """Kill the console while the run is at work, begin another, and look on until the run is done."""
    begun["at_work_before"] = psutil.Process(begun["pid"]).is_running()
    begun["tab"].close()
    desk.end(kill=True)
    begun["session"] = os.getsid(begun["pid"])
    begun["at_work_after"] = psutil.Process(begun["pid"]).status() != psutil.STATUS_ZOMBIE
    tab = context.new_page()
    tab.goto(desk.start())
    begun["again"] = tab.locator("#main").inner_text()
    press(tab, "photos")
    tab.locator(".badge.done").wait_for(timeout=4 * SOON_MS)
    return tab


def test_an_empty_console_says_what_to_do_and_keeps_the_token_out_of_the_address(begun: dict[str, Any]) -> None:
    assert "Begin with a folder" in begun["empty"]
    assert "Say what to look for" in begun["empty"]
    assert "token" not in begun["address"]


def test_what_is_wrong_is_said_as_one_types(begun: dict[str, Any]) -> None:
    assert begun["may_go_on"] is False, "a folder that is not there leads nowhere"
    assert "line 4" in begun["wrong"]
    assert "at least one prompt" in begun["wrong"]


def test_recipe_and_plan_tell_what_fits_what_it_takes_and_the_commands_that_do_the_same(begun: dict[str, Any]) -> None:
    assert "fits this folder" in begun["recipe"]
    assert "missing here: labelled, corpus, truth.jsonl" in begun["recipe"]
    assert "starter:retrieval" in begun["plan"]
    assert "Apache-2.0" in begun["plan"]
    assert "--policy runs/policies/things.yaml --runs runs --name photos" in begun["plan"]


def test_two_browsers_see_one_run(begun: dict[str, Any], done: "Page", desk: Desk) -> None:
    assert begun["both"][0] == begun["both"][1] != []
    events = [json.loads(line)["event"] for line in (desk.runs / "photos" / "events.jsonl").read_text().splitlines()]
    assert events.count("run") == 1


def test_a_run_goes_on_when_the_console_is_killed_and_another_console_shows_it(
    begun: dict[str, Any], done: "Page", desk: Desk
) -> None:
    assert begun["at_work_before"]
    assert begun["at_work_after"], "the run ended with the console"
    assert begun["session"] == begun["pid"], "Ctrl-C on the console's terminal would reach the run"
    assert "photos" in begun["again"]
    assert done.locator(".steps .done").count() == 7
    assert json.loads((desk.runs / "photos" / "summary.json").read_text())["outcome"] == "done"


def test_pictures_are_blurred_until_they_are_asked_for(done: "Page", desk: Desk) -> None:
    done.goto(desk.at("/run/photos/pictures"))
    assert done.locator(".tile").count() == 60
    first = done.locator(".tile.veiled").first
    name = str(first.get_attribute("aria-label"))
    assert name.startswith("Show blurred picture")
    assert "blur" in first.locator("img").evaluate("e => getComputedStyle(e).filter")
    press(done, "Show blurred picture")
    opened = done.get_by_label(name.replace("Show blurred", "Open"))
    assert opened.locator("img").evaluate("e => getComputedStyle(e).filter") == "none"
    done.keyboard.press("Enter")
    done.locator("dialog[open] img").wait_for()
    done.keyboard.press("Escape")
    done.get_by_label("Where").fill("labels > 0 and split = 'test'")
    done.keyboard.press("Enter")
    done.get_by_text("page 1 of 1").wait_for()
    assert 0 < done.locator(".tile").count() < 36
    done.goto(desk.at("/run/photos/pictures?where=nonsense+%3E+3"))
    assert "cannot ask for" in done.locator("#main").inner_text()


def test_without_people_to_ask_the_review_says_how_to_find_some(done: "Page", desk: Desk) -> None:
    done.goto(desk.at("/run/photos/review"))
    assert "tilth review push runs/photos/dataset" in done.locator("#main").inner_text()
    press(done, "Put 50 pictures before people")
    done.get_by_text("tilth review up").wait_for()


@pytest.fixture(scope="module")
def used(done: "Page", desk: Desk) -> "Page":
    """Put the model into use, by keyboard, and wait until it is served."""
    done.goto(desk.at("/run/photos/model"))
    assert "Nothing to compare with yet" in done.locator("#main").inner_text()
    press(done, "Put it into use")
    done.wait_for_url("**/use")
    done.get_by_text("served", exact=True).wait_for()
    return done


def test_a_model_is_served_a_click_after_it_was_measured(used: "Page", desk: Desk) -> None:
    image = next((desk.folder / "photos" / "test" / "images").glob("*.png"))
    body = {"input": "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()}
    body = {"input": [{"type": "image_url", "image_url": {"url": body["input"]}}]}  # type: ignore[dict-item]
    answer = httpx.post(f"http://127.0.0.1:{desk.serve_port}/v1/moderations", json=body, timeout=60).raise_for_status()
    assert set(answer.json()["results"][0]["category_scores"]) == set(KINDS)


def test_a_model_that_is_no_better_is_told_so_plainly(used: "Page", desk: Desk) -> None:
    used.goto(desk.at("/run/photos/model"))
    press(used, "Compare on the sealed test pictures")
    used.locator(".verdict-plain").wait_for()
    told = used.locator(".verdict-plain").inner_text()
    assert told.startswith("Not better: both say the same of these")
    assert "0.0 % [0.0, 0.0]" in told
    used.reload()
    assert "Not better" in used.locator(".verdict-plain").inner_text(), "it is kept beside the run"


def test_the_model_before_comes_back_with_one_click(used: "Page", desk: Desk) -> None:
    champion = Champion(desk.runs / "champion")
    first = champion.bundle
    assert first
    other = desk.folder / "other"
    shutil.copytree(first, other)
    seal(other, clear_below=0.01, facts={"made": NOW})
    champion.promote(other, time=NOW, why="another line")
    used.goto(desk.at("/use"))
    used.get_by_role("heading", name=champion.bundle.name if champion.bundle else "").wait_for()
    press(used, "Go back to the one before")
    used.get_by_role("heading", name=first.name).wait_for()
    assert Champion(desk.runs / "champion").bundle == first
    press(used, "Stop serving")
    used.get_by_text("not served").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(used: "Page", desk: Desk, browser: "Browser", scheme: str) -> None:
    axe_playwright = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    )
    found = {}
    with browser.new_context(color_scheme=scheme) as context:  # type: ignore[arg-type]
        tab = context.new_page()
        tab.goto(desk.url)
        for page in PAGES if scheme == "light" else PAGES[5:6]:
            tab.goto(desk.at(page))
            tab.locator("#main > *").first.wait_for()
            tab.wait_for_load_state("networkidle")
            wrong = axe_playwright.Axe().run(tab).response["violations"]
            serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in wrong if v["impact"] in ("serious", "critical")]
            if serious:
                found[page] = serious
    assert found == {}


def test_who_has_no_token_is_sent_away(desk: Desk) -> None:
    for path in (
        "/",
        "/?token=guessed",
        "/run/photos",
        "/run/photos/picture/x.jpg",
        "/_nicegui_ws/socket.io/?EIO=4&transport=polling",
    ):
        answer = httpx.get(desk.at(path))
        assert (answer.status_code, "tilth console" in answer.text) == (403, True), path
    assert httpx.get(desk.at("/"), cookies={f"tilth_console_{desk.port}": "guessed"}).status_code == 403
    known = {f"tilth_console_{desk.port}": desk.url.partition("token=")[2]}
    assert httpx.get(desk.at("/"), cookies=known).status_code == 200
    elsewhere = {"origin": "http://elsewhere.example"}
    assert httpx.post(desk.at("/upload"), cookies=known, headers=elsewhere).status_code == 403


def test_a_hostile_upload_is_refused_in_a_line_each_and_the_rest_is_taken(done: "Page", desk: Desk) -> None:
    good = next((desk.folder / "photos" / "test" / "images").glob("*.png")).read_bytes()
    known = {f"tilth_console_{desk.port}": desk.url.partition("token=")[2]}
    sent = (("../../evil.png", good), ("page.png", b"<script>alert(1)</script>"), ("good.png", good))
    files = [("files", (name, data)) for name, data in sent]
    answer = httpx.post(desk.at("/upload"), cookies=known, data={"name": "sent"}, files=files)
    assert answer.status_code == 303
    done.goto(desk.at(answer.headers["location"]))
    told = done.locator("#main").inner_text()
    assert "1 image and 0 label files" in told
    assert "1 × its name leads out of the upload, as '../../evil.png'" in told
    assert "page.png" in told
    assert [p.name for p in (desk.runs / "uploads" / "sent").rglob("*")] == ["good.png"]
    assert not [*desk.folder.parent.rglob("evil.png")]
    bad = httpx.post(desk.at("/upload"), cookies=known, data={"name": "../up"}, files=files[2:])
    assert "problem=" in bad.headers["location"]
    asking = http.client.HTTPConnection("127.0.0.1", desk.port)
    asking.putrequest("POST", "/upload")
    asking.putheader("Cookie", "; ".join(f"{name}={value}" for name, value in known.items()))
    asking.putheader("Content-Length", str(2**40))
    asking.endheaders()
    assert asking.getresponse().status == 413, "before a byte of it is read"
    asking.close()


def test_a_run_that_is_not_there_is_said(done: "Page", desk: Desk) -> None:
    for name in ("nobody", "..%2F..", "uploads"):
        done.goto(desk.at(f"/run/{name}"))
        assert "no run" in done.locator("body").inner_text() or "404" in done.locator("body").inner_text()


def test_nothing_is_kept_but_in_runs(done: "Page", desk: Desk) -> None:
    ours = {"runs", "world", "photos", "console.log", "other"}
    assert {path.name for path in desk.folder.iterdir()} <= ours
    assert os.access(desk.runs / "photos" / "console.jsonl", os.R_OK)
    assert time.time() > (desk.runs / "photos").stat().st_mtime
    assert Path(desk.runs / "policies" / "things.yaml").is_file()
    reach(done, "Tilth")
