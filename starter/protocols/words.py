"""A world of words: texts of the starter's policy and harmless twins, as signs, posts and chats, disguised, in four languages, with truth.

corpus.jsonl     texts that nobody has labelled
labelled.jsonl   a few, with the label of each
test.jsonl       sealed: sayings and words that neither the corpus nor the verdict model's training shows
truth.jsonl      every text with its label, and what it is: topic, register, trick, language; what a simulated reviewer knows
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tilth.data.files import folder_beside
from tilth.errors import InputError
from tilth.policy import SAFE
from tilth.starter.verdict.topics import AREAS, OTHER, TOPICS, say

PURPOSE = 95  # part of the seed; nothing else is drawn by it
PREVALENCE, TWINS, TRICKED, FOREIGN = (
    0.06,
    0.4,
    0.15,
    0.08,
)  # chances: of each category, of a twin, of a trick, of another language
CATEGORIES = {"gambling_ad": "stakes", "illicit_sale": "unchecked", "threat": "threat"}  # and the topic of each
NEAR = {name: [t for t in AREAS[TOPICS[name].area] if t != name] for name in CATEGORIES.values()}
POSTS = (
    "{} - see you there", "Hi all: {}", "{}, tell your friends", "Just saw this: {}", "{} (more by mail)", "News from our street. {}",
    "{} ... what do you think", "Does anybody know about this: {}",
)  # fmt: skip
CHATS = ("{} lol", "hey {}", "{} ok", "so {}", "{} thx", "and {} bye")
HELD_OUT = {"post": ("As I read today: {}", "{} - please share"), "chat": ("well {} haha", "um {}")}
LOOKS = str.maketrans("AEOCPTaeocp", "\u0410\u0415\u041e\u0421\u0420\u0422\u0430\u0435\u043e\u0441\u0440")
DIGITS = str.maketrans("OIESAoiesa", "0135@0135@")
# Fixed phrases; the last of each is held out.
PHRASES = {
    "de": {
        "stakes": ("Heute um Geld spielen", "Wetten Sie jetzt um Bargeld", "Poker um echtes Geld"),
        "unchecked": ("Schnaps ohne Ausweis", "Zigaretten, keine Fragen nach dem Alter", "Tabletten ohne Rezept und Ausweis"),
        "threat": ("Du wirst es bereuen", "Wir wissen, wo du wohnst", "Dir wird noch etwas zustossen"),
        OTHER: ("Das Fest ist am Sonntag", "Spielen ohne Geld, zum Spass", "Verkauf nur gegen Ausweis", "Unsere Mannschaft besiegt euch"),
    },
    "fr": {
        "stakes": ("Pariez ce soir pour de l'argent", "Jouez au poker pour du liquide", "Misez votre argent ici"),
        "unchecked": ("Alcool sans carte", "Cigarettes sans controle d'age", "Pilules sans ordonnance ni carte"),
        "threat": ("Tu vas le regretter", "Nous savons ou tu habites", "Il va t'arriver quelque chose"),
        OTHER: ("La fete est dimanche", "Jeux gratuits, sans argent", "Vente sur presentation de carte", "Notre equipe va vous battre"),
    },
    "es": {
        "stakes": ("Apuesta hoy por dinero", "Juega al poker por efectivo", "Apuestas con dinero real"),
        "unchecked": ("Alcohol sin carnet", "Tabaco sin mirar la edad", "Pastillas sin receta ni carnet"),
        "threat": ("Te vas a arrepentir", "Sabemos donde vives", "Algo te va a pasar"),
        OTHER: ("La fiesta es el domingo", "Juegos gratis, sin dinero", "Venta solo con carnet", "Nuestro equipo os va a ganar"),
    },
}  # fmt: skip

Row = dict[str, str]


def draw_words(index: int, seed: int, *, held_out: bool = False) -> Row:
    """Draw a text: `text`, its `label` (a category, or safe), and what it is.

    Args:
        index: Of the text.
        seed: Of the world.
        held_out: Of what only the sealed test shows.
    """
    rng = np.random.default_rng((PURPOSE, index, seed, held_out))
    drawn = rng.random()
    label = next((name for n, name in enumerate(CATEGORIES, 1) if drawn < n * PREVALENCE), SAFE)
    foreign = rng.random() < FOREIGN
    if label != SAFE:
        topic = CATEGORIES[label]
    elif rng.random() < TWINS:
        topic = str(rng.choice(NEAR[str(rng.choice(list(NEAR)))]))
    else:
        topic = str(rng.choice([OTHER, *(t for t in TOPICS if t not in CATEGORIES.values())]))
    language = str(rng.choice(list(PHRASES))) if foreign else "en"
    if foreign:
        phrases = PHRASES[language][topic if label != SAFE else OTHER]
        some = phrases[-1:] if held_out else phrases[:-1]
        topic, text = (topic if label != SAFE else OTHER), str(rng.choice(some))
    else:
        text = say(topic, rng, held_out=held_out)
    register = str(rng.choice(["sign", "post", "chat"]))
    text = _in_register(text, register, foreign, held_out, rng)
    trick = str(rng.choice(["look-alike", "digits", "invisible", "apart"])) if rng.random() < TRICKED else ""
    return {
        "text": _tricked(text, trick, rng),
        "label": label,
        "topic": topic or "other",
        "register": register,
        "trick": trick,
        "language": language,
    }


def _in_register(text: str, register: str, foreign: bool, held_out: bool, rng: np.random.Generator) -> str:
    if register == "sign":
        return text if foreign else text.upper()
    frames = (POSTS if register == "post" else CHATS) if not held_out else HELD_OUT[register]
    said = text if foreign else text.capitalize()
    frame = str(rng.choice(frames)) if rng.random() < 0.7 else "{}"
    return frame.format(said) if register == "post" else frame.format(said).lower()


def _tricked(text: str, trick: str, rng: np.random.Generator) -> str:
    if trick == "look-alike":
        return text.translate(LOOKS)
    if trick == "digits":
        return text.translate(DIGITS)
    words = text.split(" ")
    at = int(rng.integers(len(words)))
    if trick == "invisible":
        words[at] = "\u200b".join(words[at])
    elif trick == "apart":
        words[at] = " ".join(words[at])
    return " ".join(words)


def write_words(
    out: Path, *, corpus: int = 4000, labelled: int = 60, test: int = 1000, seed: int = 0
) -> dict[str, int]:
    """Write a world of words, and return how many texts are in each of its files.

    Raises:
        InputError: There is something at `out`, or a number is none.
    """
    if min(corpus, labelled, test) < 1 or seed < 0:
        raise InputError(
            f"expected at least one text of each kind and a seed from 0, got {corpus}, {labelled}, {test} and {seed}"
        )
    if out.exists():
        raise InputError(f"{out}: is there already; give a new folder")
    starts = {"corpus": 0, "labelled": corpus, "test": 0}
    counts = {"corpus": corpus, "labelled": labelled, "test": test}
    with folder_beside(out) as partial:
        partial.mkdir(parents=True)
        with (partial / "truth.jsonl").open("w", encoding="utf-8") as truth:
            for name, count in counts.items():
                kept = ("id", "text", "language", *(("label",) if name != "corpus" else ()))
                with (partial / f"{name}.jsonl").open("w", encoding="utf-8") as stream:
                    for row in _rows(name, starts[name], count, seed):
                        stream.write(json.dumps({k: row[k] for k in kept}, ensure_ascii=False) + "\n")
                        truth.write(json.dumps(row, ensure_ascii=False) + "\n")
    return counts


def _rows(name: str, start: int, count: int, seed: int) -> Iterator[Row]:
    for index in range(start, start + count):
        yield {"id": f"{name}-{index:06d}", **draw_words(index, seed, held_out=name == "test")}
