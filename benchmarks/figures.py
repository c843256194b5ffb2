"""Figures are data: a benchmark writes them to a file, pages and plots are filled from the files, and a test compares.

    python benchmarks/figures.py            # as `make figures` does: fill the pages and draw the plots
    python benchmarks/figures.py --check    # change nothing, and fail where a page or plot and its file disagree

A page quotes a figure between two comments, which Markdown does not show:

    A thousand took <!--f:search.exact.build_s .1f unit ci95-->6.2 s [6.0, 6.4]<!--/f-->.

First comes the file, `benchmarks/results/search.json`, and after the dot the key in it. Then come, in any order and only where
wanted: a format of Python's (`,.0f`, `.1%`), `unit`, and `ci95` for the interval. The key `source` is where a file is from: its
command, date, commit and machine. A page that quotes a file shows its source. Lines that are indented by four are code, and left alone.
"""

import argparse
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tilth.data.files import write_beside

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIELDS = {"command": str, "commit": str, "date": str, "machine": dict, "seeds": list, "figures": dict}
KEY = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
COMMIT = re.compile(r"([0-9a-f]{7,40}|unknown)(\+changes)?")
MARK = re.compile(r"<!--f:([a-z0-9_]+)\.([a-z0-9_.]+)((?: [^\s<>]+)*)-->((?:(?!<!--).)*)<!--/f-->")
WORDS = ("unit", "ci95")

Document = Mapping[str, Any]


class Figures:
    """What a benchmark found.

    Args:
        name: Of the file; pages quote it.
        seeds: That the benchmark drew with.
        command: What was run; the command line of this process when empty.
        date: Of the run, today when empty.
    """

    def __init__(self, name: str, *, seeds: Sequence[int] = (), command: str = "", date: str = "") -> None:
        self.name = name
        self._told = {
            "command": command or command_line(),
            "commit": commit(),  # now and not at the end: hours later the tree is another
            "date": date or f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": machine(),
            "seeds": [*seeds],
        }
        self._figures: dict[str, dict[str, Any]] = {}

    def add(
        self, key: str, value: float, unit: str, *, ci95: Any = None, n: int | None = None, rival: str = ""
    ) -> None:
        """Note one figure.

        Args:
            key: `snake_case`, with dots between what it is of and what it is.
            value: The number.
            unit: `s`, `MB`, `images/s`, …; `share` for a part of one, `` for what has none.
            ci95: Ends of the 95 % interval; `None`, or ends that are no numbers, where there is none.
            n: What the value was taken over, such as seeds or rounds.
            rival: Name and version of the other program that the value is of, or against which it is.

        Raises:
            ValueError: No figure, or a key that is taken.
        """
        ends = [exact(end) for end in ci95] if ci95 is not None and None not in ci95 else []
        told = {"value": exact(value), "unit": unit, "ci95": ends if all(map(math.isfinite, ends)) else [], "n": n}
        told = {k: v for k, v in (told | {"rival": rival}).items() if k in ("value", "unit") or v not in ([], None, "")}
        if wrong := [*of_figure(key, told), *([f"{key} is taken"] if key in self._figures else [])]:
            raise ValueError("; ".join(wrong))
        self._figures[key] = told

    def carry(self, folder: Path = RESULTS, *, but: Collection[str] = ()) -> None:
        """Take over the figures of an earlier file that were not noted this time, each with the commit that it is of.

        Args:
            folder: Of the file.
            but: First words of keys that are measured now, of which nothing old stays.
        """
        path = folder / f"{self.name}.json"
        if path.exists():
            before = json.loads(path.read_text())
            told = {key: {"commit": before["commit"], **one} for key, one in before["figures"].items()}
            left = {k: v for k, v in told.items() if k.partition(".")[0] not in but and k not in self._figures}
            self._figures = {**left, **self._figures}
            if left and self._told["command"] not in before["command"]:
                self._told["command"] = f"{before['command']}; {self._told['command']}"

    def made_by(self, commit: str) -> None:
        """Note the commit of the code that was measured, where that was another process than this one."""
        self._told["commit"] = commit

    def credit(self, commit: str, others: "Figures") -> None:
        """Note the commit of the figures that are the same in others, which it measured alone."""
        for key, one in others._figures.items():
            if self._figures.get(key) == one:
                self._figures[key] = {"commit": commit, **one}

    def value(self, key: str) -> float:
        """Return a figure that was noted."""
        return float(self._figures[key]["value"])

    def write(self, folder: Path = RESULTS) -> Path:
        """Write the file, one figure a line, and return its path."""
        head = json.dumps(self._told, indent=1, ensure_ascii=False).removesuffix("\n}")
        lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in self._figures.items())
        path = (folder / f"{self.name}.json").resolve()  # it may be a link to where the package looks for it
        path.parent.mkdir(parents=True, exist_ok=True)
        write_beside(path, f'{head},\n "figures": {{\n{lines}\n }}\n}}\n')
        print(f"figures: {path}", file=sys.stderr)
        return path


def add_option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark be told where its file goes."""
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the file with the figures")


def exact(value: float) -> float:
    """Return six digits of a number, which are more than any measurement has; an integer as it is."""
    return int(value) if float(value).is_integer() and abs(value) < 1e15 else float(f"{value:.6g}")


def command_line() -> str:
    """Return the command as people give it: of a path of this machine, only the end."""
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}"]
    rest = iter(sys.argv[1:])
    for word in rest:
        if word == "--results":
            next(rest, "")
        elif not word.startswith("--results="):
            option, given, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
            words.append(option + given + (f"…/{Path(value).name}" if value.startswith("/") else value))
    return " ".join(words)


def commit() -> str:
    """Return the commit of the code, `…+changes` when code was changed since."""
    try:
        told = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        words = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!*.md", ":!docs", ":!tests"]
        words += [":!benchmarks/results", ":!*.benchmark.json"]  # other benchmarks wrote these
        changed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()[:12] + ("+changes" if changed else "")


def machine() -> dict[str, Any]:
    """Tell what this ran on, and how busy it was."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    told = {
        "processor": named[1].strip() if named else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }
    for name in ("torch",):
        try:
            told[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return told


def of_figure(key: str, figure: Any) -> list[str]:
    """Tell what is wrong with one figure."""
    if not KEY.fullmatch(key):
        return [f"{key!r} is no key: snake_case words with dots between"]
    if not isinstance(figure, dict):
        return [f"{key} must be an object, got {figure!r}"]
    wrong = [f"{key} has no {name}" for name in ("value", "unit") if name not in figure]
    for name, value in figure.items():
        right = {
            "value": is_number(value),
            "unit": isinstance(value, str),
            "ci95": isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) and value[0] <= value[1],
            "n": isinstance(value, int) and value > 0,
            "rival": isinstance(value, str) and bool(value),
            "commit": isinstance(value, str) and COMMIT.fullmatch(value) is not None,
        }.get(name, False)
        wrong += [] if right else [f"{key}.{name} cannot be {value!r}"]
    return wrong


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def of_document(document: Any) -> list[str]:
    """Tell what is wrong with a file of figures."""
    if not isinstance(document, dict) or set(document) != set(FIELDS):
        return [f"must be an object with {', '.join(FIELDS)}"]
    wrong = [f"{n} cannot be {document[n]!r}" for n, kind in FIELDS.items() if not isinstance(document[n], kind)]
    if wrong:
        return wrong
    for name, pattern in (
        ("command", re.compile(r"\S.*")),
        ("commit", COMMIT),
        ("date", re.compile(r"\d{4}-\d\d-\d\d")),
    ):
        wrong += [] if pattern.fullmatch(document[name]) else [f"{name} cannot be {document[name]!r}"]
    wrong += [] if document["figures"] else ["has no figures"]
    wrong += [f"seeds cannot hold {seed!r}" for seed in document["seeds"] if not isinstance(seed, int)]
    return wrong + [one for key, figure in document["figures"].items() for one in of_figure(key, figure)]


@dataclass
class Found:
    """What came of looking at pages and plots: what `make figures` mends, and what it cannot."""

    stale: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def read_results(root: Path, found: Found) -> dict[str, Document]:
    """Read all files of figures that are right."""
    read: dict[str, Document] = {}
    for path in sorted((root / "benchmarks" / "results").glob("*.json")):
        try:
            document = json.loads(path.read_text())
            problems = of_document(document)
        except (OSError, ValueError) as error:
            problems = [str(error)]
        found.wrong += [f"benchmarks/results/{path.name}: {problem}" for problem in problems]
        if not problems:
            read[path.stem] = document
    return read


def source(document: Document) -> str:
    """Write where a file is from."""
    on = document["machine"]
    parts = [document["date"], f"commit {document['commit']}", f"{on['cores']} cores" if "cores" in on else ""]
    parts[-1] += f" of {on['processor']}" if "processor" in on else ""
    earlier = sorted({figure["commit"] for figure in document["figures"].values() if "commit" in figure})
    parts[1] += f", of some figures {' and '.join(earlier)}" if earlier else ""
    return f"`{document['command']}` ({', '.join(part for part in parts if part)})"


def written(figure: Mapping[str, Any], how: Sequence[str]) -> str:
    """Write a figure as a marker wants it.

    >>> written({"value": 0.7327, "unit": "share", "ci95": [0.7126, 0.7527]}, ["ci95"])
    '73.3 % [71.3, 75.3]'
    >>> written({"value": 12834, "unit": "ms"}, ["unit"]), written({"value": -0.5, "unit": ""}, ["+.2f"])
    ('12,834 ms', '−0.50')

    Raises:
        ValueError: The marker cannot be followed.
    """
    value = figure["value"]
    specs = [word for word in how if word not in WORDS]
    if len(specs) > 1:
        raise ValueError(f"{' '.join(specs)}: one format at most, and {' or '.join(WORDS)}")
    usual = (
        ".1%"
        if figure["unit"] == "share"
        else ","
        if isinstance(value, int)
        else ",.0f"
        if abs(value) >= 100
        else ".3g"
    )
    spec = specs[0] if specs else usual
    text = spelled(value, spec)
    if "unit" in how and not spec.endswith("%"):
        text += f" {figure['unit']}"
    if "ci95" in how:
        if "ci95" not in figure:
            raise ValueError("it has no ci95")
        text += f" [{', '.join(spelled(end, spec).removesuffix(' %') for end in figure['ci95'])}]"
    return text


def spelled(value: float, spec: str) -> str:
    return format(value, spec).replace("%", " %").replace("-", "\N{MINUS SIGN}")


def fill(name: str, text: str, results: Mapping[str, Document], found: Found) -> str:
    """Return a page as its files want it."""
    lines: list[str] = []
    quoted: dict[str, int] = {}
    sourced: set[str] = set()
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{name}:{number}"
        if line.startswith(("    ", "\t")):
            lines.append(line)
            continue
        marks = list(MARK.finditer(line))
        if not len(marks) == line.count("<!--f:") == line.count("<!--/f-->"):
            found.wrong.append(f"{where}: a marker is <!--f:FILE.KEY how-->…<!--/f-->, on one line: {line.strip()}")
        if marks and not line[: marks[0].start()].strip(" >*+-"):
            found.wrong.append(
                f"{where}: a line that begins with a marker is no Markdown any more; put a word before it"
            )
        made, end = "", 0
        for mark in marks:
            file, key, how, text_now = mark.groups()
            if key == "source":
                sourced.add(file)
            else:
                quoted.setdefault(file, number)
            try:
                wanted = wanted_of(file, key, how.split(), results)
            except ValueError as error:
                found.wrong.append(f"{where}: {file}.{key}: {error}")
                wanted = text_now
            if text_now != wanted:
                found.stale.append(f"{where}: {file}.{key}: the page says {text_now!r}, the file {wanted!r}")
            made, end = made + line[end : mark.start(4)] + wanted, mark.end(4)
        lines.append(made + line[end:])
    for file, number in quoted.items():
        if file not in sourced:
            found.wrong.append(f"{name}:{number}: quotes {file} and nowhere shows <!--f:{file}.source-->")
    for file in re.findall(r"benchmarks/results/([\w-]+)\.json", text):
        if file not in results:
            found.wrong.append(f"{name}: names benchmarks/results/{file}.json, which is not there")
    return "\n".join(lines)


def wanted_of(file: str, key: str, how: Sequence[str], results: Mapping[str, Document]) -> str:
    if file not in results:
        raise ValueError(f"there is no benchmarks/results/{file}.json; its benchmark writes it")
    if key == "source":
        return source(results[file])
    figures = results[file]["figures"]
    if key not in figures:
        raise ValueError(f"there is no such key; there are {', '.join(figures)}")
    return written(figures[key], how)


def draw(root: Path, results: Mapping[str, Document], found: Found, *, check: bool) -> None:
    """Draw the plots whose figures are not those that they were drawn from."""
    from PIL import Image
    from plots import PLOTS

    for name, (file, plot) in PLOTS.items():
        if file not in results:
            continue
        path, figures = root / "docs" / name, results[file]["figures"]
        digest = hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()[:16]
        if path.exists():
            with Image.open(path) as opened:
                if opened.info.get("Description") == digest:
                    continue
        found.stale.append(f"docs/{name}: is not drawn from benchmarks/results/{file}.json")
        if not check:
            plot(figures).savefig(path, dpi=110, metadata={"Description": digest})


def main() -> int:
    """Fill or check pages and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where something disagrees")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder with README.md, docs and benchmarks/results")
    asked = parser.parse_args()
    found = Found()
    results = read_results(asked.root, found)
    for path in sorted([*asked.root.glob("*.md"), *asked.root.glob("docs/*.md")]):
        text = path.read_text()
        made = fill(str(path.relative_to(asked.root)), text, results, found)
        if made != text and not asked.check:
            write_beside(path, made)
    draw(asked.root, results, found, check=asked.check)
    for line in [*found.wrong, *(found.stale if asked.check else [])]:
        print(line)
    if found.stale:
        print("run: make figures" if asked.check else f"filled or drawn: {len(found.stale)}")
    return 1 if found.wrong or (asked.check and found.stale) else 0


if __name__ == "__main__":
    sys.exit(main())
