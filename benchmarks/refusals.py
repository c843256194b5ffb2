"""How many ways to ask for what is never generated are refused, and how many harmless prompts.

    python benchmarks/refusals.py

Texts of abstract terms in twenty languages are written in thirty ways that hide a word (`tests/parts/refusal_texts.py`). The refusals
were written with half of the ways and of the languages in view, `seen`; what was missed of the other half, `held_out`, was mended
later. Harmless prompts are everyday ones, with those that lists of words often refuse. Takes about half a minute.
"""

import sys
from collections import Counter
from pathlib import Path

from figures import Figures

from tilth.synth.safety.lists import VERSION
from tilth.synth.safety.refusals import examine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parts"))
from refusal_texts import harmless_texts, refused_texts


def main() -> None:
    figures = Figures("refusals", seeds=[0])
    texts, caught = Counter[str](), Counter[str]()
    ways = set[str]()
    for each in refused_texts():
        half = "seen" if each.seen else "held_out"
        ways.add(each.way)
        texts[half] += 1
        caught[half] += examine({"prompt": each.text}) is not None
    harmless = list(harmless_texts())
    wrongly = sum(examine({"prompt": text}) is not None for text in harmless)
    figures.add("refused", caught.total() / texts.total(), "share", n=texts.total())
    for half in texts:
        figures.add(f"refused_{half}", caught[half] / texts[half], "share", n=texts[half])
    figures.add("false", wrongly / len(harmless), "share", n=len(harmless))
    figures.add("texts", texts.total(), "")
    figures.add("ways", len(ways), "")
    figures.add("harmless", len(harmless), "")
    figures.add("version", VERSION, "")
    figures.write()


if __name__ == "__main__":
    main()
