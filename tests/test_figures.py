"""Figures are data: what benchmarks write, how pages and plots are filled from it, and what a disagreement says."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from places import ROOT

PAGE = """# A page

A thousand took <!--f:search.exact.build_s .1f unit ci95-->?<!--/f-->;
found were <!--f:search.exact.recall-->?<!--/f-->.

| <!--f:search.exact.bytes--><!--/f--> | <!--f:search.lost .2f ci95-->old<!--/f--> |

As printed by <!--f:search.source-->?<!--/f-->.

    <!--f:search.exact.bytes-->in code, markers are left alone<!--/f-->
"""
FILLED = """# A page

A thousand took <!--f:search.exact.build_s .1f unit ci95-->6.2 s [6.0, 6.4]<!--/f-->;
found were <!--f:search.exact.recall-->95.1 %<!--/f-->.

| <!--f:search.exact.bytes-->1,032<!--/f--> | <!--f:search.lost .2f ci95-->−0.50 [−0.75, 0.25]<!--/f--> |

As printed by <!--f:search.source-->`python benchmarks/search.py --rows 1000` (2026-11-29, commit 0123456789ab, 2 cores of Abacus)<!--/f-->.

    <!--f:search.exact.bytes-->in code, markers are left alone<!--/f-->
"""


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    told = importlib.util.spec_from_file_location("figures_tool", ROOT / "benchmarks" / "figures.py")
    assert told
    assert told.loader
    module = importlib.util.module_from_spec(told)
    sys.modules[told.name] = module  # dataclasses look their module up
    told.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with one page and one file of figures."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text(PAGE)
    document = {
        "command": "python benchmarks/search.py --rows 1000",
        "commit": "0123456789ab",
        "date": "2026-11-29",
        "machine": {"processor": "Abacus", "cores": 2},
        "seeds": [0],
        "figures": {
            "exact.build_s": {"value": 6.2, "unit": "s", "ci95": [6.0, 6.4], "n": 3},
            "exact.recall": {"value": 0.951, "unit": "share"},
            "exact.bytes": {"value": 1032, "unit": "bytes"},
            "lost": {"value": -0.5, "unit": "", "ci95": [-0.75, 0.25], "rival": "another 1.0"},
        },
    }
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "search.json").write_text(json.dumps(document))
    return tmp_path


def make_figures(root: Path, *words: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "figures.py"), "--root", str(root), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout


def changed(root: Path, **parts: Any) -> None:
    path = root / "benchmarks" / "results" / "search.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


def test_a_page_is_filled_from_its_file_and_then_agrees(root: Path) -> None:
    assert make_figures(root, "--check")[0] == 1
    assert (root / "docs" / "page.md").read_text() == PAGE
    assert make_figures(root)[0] == 0
    assert (root / "docs" / "page.md").read_text() == FILLED
    assert make_figures(root, "--check") == (0, "")


def test_a_number_that_was_changed_on_the_page_or_in_the_file_fails(root: Path) -> None:
    make_figures(root)
    (root / "docs" / "page.md").write_text(FILLED.replace("95.1 %", "99.1 %"))
    code, told = make_figures(root, "--check")
    assert code == 1
    assert "docs/page.md:4: search.exact.recall: the page says '99.1 %', the file '95.1 %'" in told
    assert "run: make figures" in told
    make_figures(root)
    changed(root, commit="ba9876543210+changes")
    assert "commit ba9876543210+changes" in make_figures(root, "--check")[1]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("f:search.exact.recall", "f:lookup.exact.recall", "there is no benchmarks/results/lookup.json"),
        ("f:search.exact.recall", "f:search.exact.precision", "there is no such key; there are exact.build_s"),
        ("exact.recall-->", "exact.recall ci95-->", "it has no ci95"),
        ("exact.recall-->", "exact.recall .1f ,.0f-->", "one format at most"),
        ("exact.recall-->", "exact.recall .1q-->", "docs/page.md:4: search.exact.recall: "),
        ("As printed by <!--f:search.source-->?<!--/f-->.", "", "docs/page.md:3: quotes search and nowhere shows"),
        ("A thousand took ", "", "docs/page.md:3: a line that begins with a marker"),
        ("?<!--/f-->;", "?;", "docs/page.md:3: a marker is <!--f:FILE.KEY how-->"),
        ("A thousand", "See benchmarks/results/lookup.json. A thousand", "lookup.json, which is not there"),
    ],
)
def test_what_cannot_be_filled_is_said_and_fails(root: Path, before: str, after: str, said: str) -> None:
    assert before in PAGE
    (root / "docs" / "page.md").write_text(PAGE.replace(before, after))
    for words in ((), ("--check",)):
        code, told = make_figures(root, *words)
        assert code == 1
        assert said in told


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"commit": "HEAD"}, "commit cannot be 'HEAD'"),
        ({"date": "yesterday"}, "date cannot be 'yesterday'"),
        ({"more": 1}, "must be an object with command, commit, date, machine, seeds, figures"),
        ({"figures": {}}, "has no figures"),
        ({"figures": {"Exact build": {"value": 1, "unit": "s"}}}, "'Exact build' is no key"),
        ({"figures": {"build_s": {"value": 1}}}, "build_s has no unit"),
        ({"figures": {"build_s": {"value": "1", "unit": "s"}}}, "build_s.value cannot be '1'"),
        ({"figures": {"build_s": {"value": 1, "unit": "s", "ci95": [2, 1]}}}, "build_s.ci95 cannot be [2, 1]"),
        ({"figures": {"build_s": {"value": 1, "unit": "s", "note": "?"}}}, "build_s.note cannot be '?'"),
    ],
)
def test_a_file_that_does_not_fit_fails(root: Path, parts: dict[str, Any], said: str) -> None:
    changed(root, **parts)
    code, told = make_figures(root, "--check")
    assert code == 1
    assert f"benchmarks/results/search.json: {said}" in told


def test_a_benchmark_writes_a_file_that_fits(figures: ModuleType, tmp_path: Path) -> None:
    found = figures.Figures("search", seeds=range(2), command="python benchmarks/search.py")
    found.add("exact.build_s", 6.2000001, "s", ci95=(6.0, 6.4), n=3)
    found.add("one_seed", 0.5, "share", ci95=(float("nan"), float("nan")))
    found.add("rival.recall", 0.611, "share", rival="another 1.0")
    document = json.loads(found.write(tmp_path).read_text())
    assert figures.of_document(document) == []
    assert document["seeds"] == [0, 1]
    assert document["machine"]["cores"] >= 1
    assert document["figures"] == {
        "exact.build_s": {"value": 6.2, "unit": "s", "ci95": [6, 6.4], "n": 3},
        "one_seed": {"value": 0.5, "unit": "share"},
        "rival.recall": {"value": 0.611, "unit": "share", "rival": "another 1.0"},
    }
    assert [path.name for path in tmp_path.iterdir()] == ["search.json"]
    for key, value in (("exact.build_s", 1.0), ("Exact", 1.0), ("more", float("nan"))):
        with pytest.raises(ValueError, match=key):
            found.add(key, value, "s")


def test_what_was_not_measured_again_stays_with_its_commit(figures: ModuleType, tmp_path: Path) -> None:
    first = figures.Figures("search", command="python benchmarks/search.py")
    first.made_by("0123456")
    first.add("recall", 0.5, "share")
    first.add("seconds", 2, "s")
    first.add("lost.share", 0.1, "share")
    first.write(tmp_path)
    again = figures.Figures("search", command="python benchmarks/search.py --again")
    again.made_by("89abcde")
    again.add("recall", 0.6, "share")
    again.carry(tmp_path, but=["lost"])
    document = json.loads(again.write(tmp_path).read_text())
    assert figures.of_document(document) == []
    assert document["figures"] == {
        "recall": {"value": 0.6, "unit": "share"},
        "seconds": {"value": 2, "unit": "s", "commit": "0123456"},
    }
    told = figures.source(document)
    assert told.startswith("`python benchmarks/search.py; python benchmarks/search.py --again` (")
    assert "commit 89abcde, of some figures 0123456, " in told


def test_a_figure_that_one_commit_tells_alone_is_of_that_commit(figures: ModuleType, tmp_path: Path) -> None:
    both, alone = figures.Figures("loop"), figures.Figures("loop")
    for key, value in {"copies": 0.9, "mixed": 0.8}.items():
        both.add(key, value, "share")
    alone.add("copies", 0.9, "share")
    alone.add("mixed", 0.7, "share")  # of its own runs only
    both.credit("0123456", alone)
    told = json.loads(both.write(tmp_path).read_text())["figures"]
    assert [one.get("commit", "") for one in (told["copies"], told["mixed"])] == ["0123456", ""]


def test_a_command_names_no_folder_of_this_machine(figures: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["/home/ana/tilth/benchmarks/dedup.py", "--photos", "/home/ana/photos", "--limit=9", "--results", "/tmp/x"]
    monkeypatch.setattr(sys, "argv", [*given, "--out=/tmp/out", "runs/a"])
    assert figures.command_line() == "python benchmarks/dedup.py --photos …/photos --limit=9 --out=…/out runs/a"


def test_a_plot_is_drawn_from_its_file_and_tells_when_the_file_has_changed(root: Path) -> None:
    path = root / "benchmarks" / "results" / "search.json"
    rows = {f"{n}.{name}": {"value": n / 10, "unit": "MB"} for n in (10, 20) for name in ("peak_mb", "not_mapped_mb")}
    of_memory = {**rows, "floats_bytes_a_vector": {"value": 1024, "unit": "bytes"}}
    (path.parent / "memory.json").write_text(json.dumps({**json.loads(path.read_text()), "figures": of_memory}))
    assert make_figures(root)[0] == 0
    plot = root / "docs" / "mining-memory.png"
    drawn = plot.read_bytes()
    assert make_figures(root, "--check") == (0, "")
    of_memory["20.peak_mb"]["value"] = 3
    (path.parent / "memory.json").write_text(json.dumps({**json.loads(path.read_text()), "figures": of_memory}))
    code, told = make_figures(root, "--check")
    assert code == 1
    assert "docs/mining-memory.png: is not drawn from benchmarks/results/memory.json" in told
    assert plot.read_bytes() == drawn
    make_figures(root)
    assert plot.read_bytes() != drawn


def test_the_demo_is_read_from_its_summary(figures: ModuleType, tmp_path: Path) -> None:
    judged = {name: {"mean": 0.5, "ci95": [0.4, 0.6]} for name in ("recall_at_fpr05", "f1", "map50")}
    words = {"images": 38, "recall_both_stages": 1.0, "recall_stage1_alone": 0.0}
    both = {"images": 1000, "decided_by_stage1": 400, "corrected": 48, "harmed": 0, "harm_only_in_text": words}
    facts = {"review": {"human_actions": 364, "hours": 0.57}, "moderate": both}
    summary = {
        "recipe": "starter",
        "seed": 0,
        "finished": "2026-11-20T21:14:39Z",
        **{name: {**judged, "n_images": 1000} for name in ("baseline", "random_same_effort", "final")},
        "seconds": {"review": 2.5, "moderate": 10.0},
        "peak_rss_mb": {"run": 2600.0},
        "steps": {name: {"facts": told} for name, told in facts.items()},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    command = [
        sys.executable,
        ROOT / "benchmarks" / "demo.py",
        tmp_path / "summary.json",
        "--results",
        tmp_path / "out",
    ]
    subprocess.run(command, check=True, capture_output=True)
    document = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert figures.of_document(document) == []
    assert document["command"] == "tilth run configs/recipes/starter.yaml"
    assert document["date"] == "2026-11-20"
    assert document["figures"]["loop.recall"] == {"value": 0.5, "unit": "share", "ci95": [0.4, 0.6], "n": 1000}
    assert document["figures"]["loop.human_actions"]["value"] == 364
    assert document["figures"]["moderate.decided_by_stage1"]["value"] == 0.4
