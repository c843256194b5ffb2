"""A bundle is judged as it is served, both stages beside the first alone and beside rivals; and nothing is safe by default."""

import io
import json
import re
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import typer
from commands import tilth
from judged_folder import words, write_folder
from PIL import Image as PilImage
from places import POLICY
from refusals import refusal
from runtime_graphs import BLUE, GREEN, GREY, RED, shared_bundle, shared_moderator
from served import running
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, precision_score, recall_score
from typer.testing import CliRunner

from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.apply import Apply
from tilth.engine.work import Work
from tilth.errors import InputError
from tilth.images import encode_png
from tilth.pipeline.cli import bundle as cli_bundle
from tilth.pipeline.protocols.examples import open_source
from tilth.pipeline.protocols.judge import judge
from tilth.pipeline.protocols.rates import NUMBERS, differences, rate
from tilth.pipeline.protocols.rivals import Endpoint, Ways, rivals
from tilth.pipeline.protocols.table import table
from tilth.policy import Policy, load_policy
from tilth.runtime.serving.admission import Tokens
from tilth.samples import NewSample, Result

ONE_THREAD = Ways(threads=1)
SHOWN: dict[str, tuple[Any, list[str]]] = {
    "knife.png": (RED, ["knife"]),
    "maybe.png": (BLUE, []),  # the classifier alone takes it for a knife: a false alarm of both
    "nothing.png": (GREY, []),
    "threat.png": (words("WE WILL FIND YOU"), ["threat", "text_area"]),
    "poker.png": (words("PLAY POKER NOW"), ["gambling_ad", "text_area"]),
    "floor.png": (words("WET FLOOR"), ["text_area"]),
    "bread.png": (words("FRESH BREAD"), ["text_area"]),
    "board.png": (GREEN, ["knife", "text_area"]),  # a knife that nobody can see: missed by both
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = {name: image for name, (image, _) in SHOWN.items()} | {"broken.png": encode_png(RED)[:60]}
    answers = [{"file": name, "categories": found} for name, (_, found) in SHOWN.items()]
    return write_folder(
        tmp_path_factory.mktemp("judged") / "set", images, [*answers, {"file": "broken.png", "categories": []}]
    )


@pytest.fixture(scope="module")
def facts(folder: Path) -> dict[str, Any]:
    return judge("two-stage", shared_bundle(), folder, ways=ONE_THREAD)


def means(facts: dict[str, Any], subset: str, who: str) -> dict[str, float | None]:
    told = facts["subsets"][subset]["judges"][who]
    return {name: told[name]["mean"] for name in NUMBERS}


def test_what_is_only_written_is_found_by_both_stages_and_never_by_the_first_alone(facts: dict[str, Any]) -> None:
    assert means(facts, "text only", "full") == {
        "accuracy": 1, "f1": 1, "precision": 1, "recall": 1, "balanced_accuracy": 1, "fpr": 0
    }  # fmt: skip
    alone = means(facts, "text only", "vision only")
    assert (alone["recall"], alone["precision"], alone["accuracy"]) == (0, None, 0.5)
    assert facts["subsets"]["text only"]["images"] == 4
    assert facts["subsets"]["text only"]["full_minus"]["vision only"]["f1"]["mean"] == 1


def test_subsets_are_made_by_what_is_true_and_everything_unsafe_is_beside_them(facts: dict[str, Any]) -> None:
    sizes = {name: (some["images"], some["unsafe"]) for name, some in facts["subsets"].items()}
    assert sizes == {"all": (8, 4), "text + visual": (5, 3), "text only": (4, 2)}
    assert means(facts, "all", "full") == {
        "accuracy": 0.75, "f1": 0.75, "precision": 0.75, "recall": 0.75, "balanced_accuracy": 0.75, "fpr": 0.25
    }  # fmt: skip
    for some in facts["subsets"].values():
        told = some["judges"]["always unsafe"]
        assert (told["recall"]["mean"], told["fpr"]["mean"]) == (1, 1)
        assert told["accuracy"]["mean"] == round(some["unsafe"] / some["images"], 4)


def test_what_cannot_be_decoded_is_named_and_not_safe(facts: dict[str, Any]) -> None:
    assert facts["images"] == 8
    assert facts["not_decoded"]["count"] == 1
    assert facts["not_decoded"]["first"][0]["file"] == "images/broken.png"
    assert "not decoded: 1 (images/broken.png: " in table(facts)


def test_categories_stages_and_times_are_told(facts: dict[str, Any]) -> None:
    assert facts["per_category"]["knife"]["images"] == 2
    assert facts["per_category"]["knife"]["recall"]["full"]["mean"] == 0.5
    assert facts["per_category"]["knife"]["naming"]["full"]["precision"]["mean"] == 0.5
    assert facts["per_category"]["threat"]["recall"]["vision only"]["mean"] == 0
    assert facts["decided_by"] == {"stage1": 0.375, "stage2": 0.625}
    full, alone = facts["latency_ms"]["full"], facts["latency_ms"]["vision only"]
    assert 0 < alone["p50"] < full["p50"] <= full["p99"]
    assert {one["file"]: one["is"] for one in facts["hardest"]} == {
        "images/board.png": "missed",
        "images/maybe.png": "false alarm",
    }


def test_the_numbers_are_scikit_learns_of_any_bootstrap_sample() -> None:
    rng = np.random.default_rng(0)
    theirs = {"accuracy": accuracy_score, "f1": f1_score, "precision": precision_score, "recall": recall_score,
              "balanced_accuracy": balanced_accuracy_score}  # fmt: skip
    truth, said = rng.random(200) < 0.4, rng.random(200) < 0.5
    for _ in range(5):
        counts = np.bincount(rng.integers(0, 200, 200), minlength=200)
        for name, function in theirs.items():
            assert rate(counts, name, said, truth) == pytest.approx(function(truth, said, sample_weight=counts))
        assert rate(counts, "fpr", said, truth) == pytest.approx(1 - recall_score(~truth, ~said, sample_weight=counts))


def test_a_judge_is_by_nothing_above_itself_and_surely_above_a_coin() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(400) < 0.5
    good, coin = truth ^ (rng.random(400) < 0.1), rng.random(400) < 0.5
    assert differences(good, good, truth)["f1"] == {"mean": 0.0, "ci95": [0.0, 0.0]}
    low, high = differences(good, coin, truth)["f1"]["ci95"]  # type: ignore[index, call-overload]
    assert 0.2 < low < high < 0.6


def test_a_rival_is_asked_about_the_same_images_by_its_spec(folder: Path) -> None:
    with running(shared_moderator(), tokens=Tokens(["secret-token"])) as client:
        url = f"{client.base_url}/v1/moderations"
        specs = [str(shared_bundle()), "starter:classifier", url]
        ways = Ways(unsafe=["spoon", "pen"], token="secret-token", threads=1)
        told = judge("two-stage", shared_bundle(), folder, specs=specs, ways=ways)
        without = judge("two-stage", shared_bundle(), folder, specs=[url], ways=ONE_THREAD)
    own = means(told, "all", "full")
    assert means(told, "all", url) == means(told, "all", f"{shared_bundle()} full") == own
    assert told["per_category"]["threat"]["naming"][url]["f1"]["mean"] == 1
    assert told["subsets"]["all"]["judges"]["starter:classifier"]["images"] == 8
    assert told["latency_ms"][url]["p50"] > 0
    assert without["not_answered"][url]["count"] == 8
    assert without["not_answered"][url]["first"][0]["why"] == "status 401"
    assert without["subsets"]["all"]["judges"][url]["images"] == 0
    assert means(without, "all", url)["accuracy"] is None, "what was not answered is not safe"
    assert f"not answered by {url}: 8" in table(without)


class Busy(BaseHTTPRequestHandler):
    """Is too busy twice, and then answers as nobody should."""

    asked = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).asked += 1
        self.send_response(429 if self.asked < 3 else 200)
        self.send_header("retry-after", "7")
        self.end_headers()
        self.wfile.write(b'{"results": [{"flagged": "perhaps"}]}')

    def log_message(self, *_: object) -> None:
        pass


def test_a_busy_server_is_asked_again_and_one_that_makes_no_sense_has_not_answered() -> None:
    waited: list[float] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with closing(
            Endpoint(f"http://127.0.0.1:{server.server_port}/v1#omni", ONE_THREAD, sleep=waited.append)
        ) as rival:
            [said] = rival(GREY).values()
        server.shutdown()
    assert waited == [7, 7]
    assert (said.flagged, said.why) == (None, "an answer without flagged: true or false")
    with closing(Endpoint(f"http://127.0.0.1:{server.server_port}", ONE_THREAD)) as rival:
        [nobody] = rival(GREY).values()
    assert (nobody.flagged, nobody.why) == (None, "no answer: ConnectError")


def test_a_classifier_without_unsafe_labels_or_with_strange_ones_is_refused() -> None:
    with pytest.raises(InputError, match="which of its labels are unsafe"), rivals(["starter:classifier"], Ways()):
        pass
    strange = "--unsafe porn: no such label; starter:classifier has book, "
    with pytest.raises(InputError, match=strange), rivals(["starter:classifier"], Ways(unsafe=["spoon", "porn"])):
        pass


def test_a_datasets_sealed_test_split_is_opened_and_counted(work: Work, policy: Policy) -> None:
    names = policy.names
    looked = {"knife": RED, "": GREY, "threat": words("WE WILL FIND YOU")}
    samples = [
        NewSample(
            data=encode_png(image), origin={"source": f"{name or 'nothing'}.png"},
            claims=(Claim(category=name or None, says="label" if name else "confirmed_empty", source="import:x", asked=names),),
        )
        for name, image in looked.items()
    ]  # fmt: skip
    half = Claim(says="confirmed_empty", source="import:y", asked=("knife",))
    samples.append(NewSample(data=encode_png(BLUE), origin={"source": "half.png"}, claims=(half,)))
    work.add("set", samples)
    Apply.to(work, {one: Result(columns={"split": "test"}) for some in work.dataset.ids() for one in some})
    root = work.dataset.root
    told = [judge("two-stage", shared_bundle(), root, ways=ONE_THREAD) for _ in range(2)]
    assert [one["test_opened"] for one in told] == [1, 1], "the same evaluation again is none more"
    assert told[0]["images"] == 3
    assert told[0]["nobody_looked"] == {"count": 1, "first": ["half.png"]}
    assert means(told[0], "all", "full")["accuracy"] == 1
    assert told[0]["subsets"]["text only"]["images"] == 1
    with pytest.raises(InputError, match="no reviewed image in split 'val'"):
        judge("two-stage", shared_bundle(), root, ways=ONE_THREAD, split="val")
    assert Dataset(root).at.number == told[0]["version"]


def test_unsafebench_as_its_users_bring_it(tmp_path: Path) -> None:
    rows = [
        (RED, "Unsafe", "Violence"), (GREY, "Safe", "Hate"), (words("WE WILL FIND YOU"), "Unsafe", "Harassment"), (BLUE, "?", "Spam")
    ]  # fmt: skip
    made = datasets.Dataset.from_dict(
        {
            "image": [PilImage.fromarray(image) for image, _, _ in rows],
            "safety_label": [label for _, label, _ in rows],
            "category": [category for _, _, category in rows],
            "source": ["Laion5B"] * 4,
            "text": [None, "a caption", None, None],
        },
        features=datasets.Features(
            {
                "image": datasets.Image(),
                **{n: datasets.Value("string") for n in ("safety_label", "category", "source", "text")},
            }
        ),
    )
    (tmp_path / "data").mkdir()
    made.to_parquet(str(tmp_path / "data" / "test-00000-of-00001.parquet"))
    made.select([0]).to_parquet(str(tmp_path / "data" / "train-00000-of-00001.parquet"))
    told = judge("two-stage", shared_bundle(), tmp_path, ways=ONE_THREAD)
    assert (told["images"], told["unsafe"]) == (3, 2)
    assert told["nobody_looked"]["first"] == ["test-00000-of-00001.parquet:3"]
    assert means(told, "all", "full")["accuracy"] == 1
    assert [*told["per_category"]] == ["Violence", "Harassment"], "a safe image does not show what it was searched by"
    assert told["words_read"] is True
    assert told["subsets"]["text + visual"]["images"] == 1
    assert open_source(tmp_path, load_policy(POLICY), "train").total == 1
    odd = tmp_path / "odd.parquet"
    datasets.Dataset.from_dict({"picture": [1]}).to_parquet(str(odd))
    with pytest.raises(InputError, match=r"no column image and safety_label; there are picture"):
        open_source(odd, load_policy(POLICY))


def test_bytes_that_are_no_image_in_a_row_are_named(tmp_path: Path) -> None:
    out = io.BytesIO()
    PilImage.fromarray(RED).save(out, "PNG")
    rows = {"image": [{"bytes": out.getvalue()[:60]}, {"bytes": None}], "safety_label": ["Unsafe", "Safe"]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "test.parquet"))
    found = [*open_source(tmp_path, load_policy(POLICY)).read()]
    assert [one.image for one in found] == [None, None]
    assert found[1].why == "the row holds no image"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--protocol", "three-stage", "b", "d"], "--protocol must be one of two-stage, flips, pairs, injection"),
        (["--protocol", "two-stage", "b"], "takes a bundle and what it is judged on, got 1 paths"),
        (["data"], "give --policy"),
        (["--protocol", "flips", "--rival", "x", "b", "d"], "no rival follows another policy"),
        (["--protocol", "pairs", "--token-env", "NO_SUCH_TOKEN", "b", "d"], "no such environment variable"),
        (["--protocol", "pairs", "--set", "a=b", "b", "d"], "a protocol judges a bundle by its own policy"),
    ],
)
def test_a_wrong_command_is_refused(arguments: list[str], why: str) -> None:
    with pytest.raises(InputError, match=re.escape(why)):
        run(*arguments)


def run(*arguments: object) -> str:
    """Run `tilth eval` in this process."""
    app = typer.Typer()
    app.command("moderate")(lambda: None)  # of one command alone typer would make no group
    cli_bundle.add_to(app)
    done = CliRunner().invoke(app, ["eval", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_the_command_prints_a_table_or_json_and_writes_a_page(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    shown = run(
        "--protocol", "two-stage", shared_bundle(), folder, "--threads", "1", "--html", page, "--policy", POLICY
    )
    assert "text only (4, 2 unsafe)" in shown
    assert "always unsafe" in shown
    assert "full − vision only" in shown
    drawn = page.read_text()
    assert "Text only" in drawn
    assert drawn.count('class="thumb veiled"') == 2, "the two that both stages get wrong, blurred"
    assert "images/broken.png" in drawn
    told = json.loads(run("--protocol", "two-stage", shared_bundle(), folder, "--threads", "1", "--json"))
    assert told["subsets"]["all"]["images"] == 8


def test_what_is_no_set_is_refused_in_one_line(tmp_path: Path) -> None:
    refused = tilth("eval", "--protocol", "two-stage", shared_bundle(), tmp_path)
    assert refused.returncode == 2
    assert "neither a dataset, nor a folder with answers.jsonl, nor Parquet files" in refusal(refused)
