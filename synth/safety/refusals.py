"""What is never generated: sexual content, and anything that sexualises or harms a minor. Nothing switches this off.

Every text that can steer an image is read: prompts, negative prompts, categories, captions of reference images, names
and metadata of adapters and control networks. Words are compared whole, after undoing what is done to hide them: other
alphabets, digits for letters, invisible characters, letters set apart. The lists are of abstract words, on purpose:
they catch what people write, and a model's own safety checker and the review stay behind them.

A text alone is refused for sexual words. Words for minors are harmless by themselves ("a child's toy"), and refused
together with words of harm, of weapons and drugs, or of undress, even when these stand in different fields of one job.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from tilth.errors import InputError

SEXUAL = "sexual content"
MINOR = "sexualising or harming a minor"
INVERTED = "a negative prompt that takes clothing or adulthood away"


def _list(text: str) -> tuple[str, ...]:
    """Read a list of words; a trailing * stands for any ending."""
    return tuple(text.split())


_SEXUAL = _list("""
    sex sexes sexual* sexy sexier sexiest sexting nude nudes nudity nudist* nudism naked* topless bottomless undress*
    unclothed disrobe* porn* erotic* erotis* hentai nsfw xxx xrated lewd* lascivious obscen* fetish* bdsm orgasm*
    orgy orgies masturbat* intercourse genital* striptease stripper* seductive* sensual* lust lustful* rape raped rapes
    rapist* incest* pedo pedophil* paedo paedophil* jailbait loli lolis lolicon shota shotacon csam
    sexo desnud* sexuell* sexuel* nackt* nackig pelad* nudo nuda nudi sesso
""")
_SEXUAL_ELSEWHERE = _list("голая голый голые обнажен* секс* порно* эротик*")
_SEXUAL_UNSPACED = _list("裸 色情 性爱 エロ ヌード 야동 누드")  # of scripts that set no spaces: found anywhere
_MINORS = _list("""
    child childs children childrens childlike kid kids minor minors underage underaged teen teens teenage teenaged
    teenager* preteen* tween tweens toddler* infant infants baby babies newborn* juvenile juveniles adolescen*
    schoolgirl* schoolboy* schoolchild* preschooler* kindergart* boy boys girl girls youngster* nino ninos nina ninas
    kinder enfant enfants bambin*
""")
_HARM = _list("""
    harm harms harmed harming hurt hurts hurting injur* wound* bleed* bloody blood beat beaten beating beats abuse*
    abusing abusive kill* murder* dead death dying corpse* tortur* attack* stab stabs stabbed stabbing gunshot* strangl*
    choke* choking starv* violen* gore gory bruis* victim* assault* kidnap* abduct* gagged chained hostage* suicid*
    selfharm drown* molest* groom grooming traffick* exploit* slap* punch* bully* bullied threat* burned
""")
_DANGER = _list("""
    knife knives blade blades gun guns pistol* rifle* shotgun* firearm* weapon* sword* machete* bomb* grenade*
    explosive* cigarette* cigar cigars vape* vaping smoking smoke smokes alcohol* beer beers wine whisky whiskey vodka
    liquor drunk drug drugs cocaine heroin syringe* needle needles pill pills gambl*
""")
_UNDRESS = _list("""
    bikini* lingerie underwear panties bra bras swimsuit* swimwear shirtless bathing bath shower showering seduc* kiss*
    provocative* suggestive* flirt* intimate* voluptuous curvy cleavage stocking stockings
""")
_INVERTING = _list("""
    clothes clothing clothed clothe dress dressed garment* censor* sfw adult adults grownup* mature elderly
""")

# Before these, "minor" says how large something is; a lock or a cap can be for children's sake.
_ADJECTIVE_BEFORE = _list("""
    scratch scratches damage wear injury injuries wound wounds cut cuts burn burns bruise bruises bleeding detail details
    change changes issue issues defect defects dent dents crack cracks flaw flaws repair repairs accident accidents
    chord chords key keys scale league chip chips stain stains blemish blemishes imperfection imperfections
""")
_PROTECTED = re.compile(r"\b(?:child|childs|children|kids?|baby)[\s_-]*(?:proof|resistant|safe|safety|locks?)\w*")
_COLOURS = re.compile(r"\bbaby[\s_-]+(?:blue|pink)\b")
_AGE = re.compile(r"\b(\d{1,2})\s*[-_]?\s*(?:years?|yrs?|yo|y\s*/\s*o|months?|weeks?)\b(?:\s*[-_]?\s*olds?)?")
_LOOSE_LETTERS = re.compile(r"(?<!\w)(?:[a-z][\W_]+){2,}[a-z](?!\w)")

_LEET = str.maketrans("013457@$!|+€", "oieastasiite")
# Letters of other alphabets that look like Latin ones.
_TWINS = str.maketrans("аеорсухіјѕԁһкмтвαεοιυνκρτχ", "aeopcyxijsdhkmtbaeoiuvkptx")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a text was refused for, and in which fields."""

    reason: str
    fields: tuple[str, ...]


@lru_cache(maxsize=32)
def _matcher(words: tuple[str, ...]) -> re.Pattern[str]:
    folded = [(re.escape(plain(w.rstrip("*"))), w.endswith("*")) for w in words]
    parts = [word + r"\w*" if any_ending else word for word, any_ending in folded]
    return re.compile("(?:" + "|".join(parts) + ")")


def _has(words: tuple[str, ...], tokens: frozenset[str]) -> bool:
    match = _matcher(words)
    return any(match.fullmatch(token) for token in tokens)


def plain(text: str) -> str:
    r"""Fold a text to lower case without accents, compatibility forms and invisible characters.

    >>> plain("Ｃａｆé\u200b")
    'cafe'
    """
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = (c for c in folded if not unicodedata.combining(c) and unicodedata.category(c) not in ("Cf", "Cc", "Co"))
    return unicodedata.normalize("NFC", "".join(kept))


def _views(text: str) -> tuple[str, ...]:
    """Return the readings of a text: as written, with look-alike letters as Latin, and with digits as letters."""
    written = plain(re.sub(r"[\t\n\r]", " ", text))
    latin = written.translate(_TWINS)
    return tuple(dict.fromkeys((written, latin, latin.translate(_LEET))))


def _tokens(view: str) -> list[str]:
    # an apostrophe does not end a word: "child's" is "childs"
    return re.findall(r"[^\W_]+", re.sub(r"[’'`]", "", view))


def _joined(view: str) -> list[str]:
    """Return the words that letters set apart make: "n u d e", "n.u-d_e", and "nu de" in two pieces."""
    runs = [re.sub(r"[\W_]+", "", run) for run in _LOOSE_LETTERS.findall(view)]
    words = _tokens(view)
    pairs = [a + b for a, b in pairwise(words) if min(len(a), len(b)) >= 2]
    return runs + pairs


def _words(text: str, *, pieces: bool) -> frozenset[str]:
    found: set[str] = set()
    for view in _views(text):
        found.update(_tokens(view))
        if pieces:
            found.update(_joined(view))
    return frozenset(found)


def _is_sexual(text: str) -> bool:
    words = _words(text, pieces=False)
    exact = tuple(w for w in _SEXUAL if not w.endswith("*"))
    if _has(_SEXUAL, words) or _has(_SEXUAL_ELSEWHERE, words):
        return True
    # Of joined pieces only exact words count: with any ending, "is ex…" and its like would be found everywhere.
    joined = {w for view in _views(text) for w in _joined(view) if len(w) >= 4 or w in ("sex", "xxx")}
    return _has((*exact, "sexual", "porno", "erotic", "naked"), frozenset(joined)) or any(
        sign in unicodedata.normalize("NFKC", text) for sign in _SEXUAL_UNSPACED
    )


def _names_minor(text: str) -> bool:
    for view in _views(text):
        if any(int(age) < 18 for age in _AGE.findall(view) if age.isdigit()):
            return True
        words = _tokens(_COLOURS.sub(" ", _PROTECTED.sub(" ", re.sub(r"[’'`]", "", view))))
        for word, after in pairwise([*words, ""]):
            if word == "minor" and after in _ADJECTIVE_BEFORE:
                continue
            if _has(_MINORS, frozenset((word,))):
                return True
        if _has(tuple(w for w in _MINORS if len(w) > 4), frozenset(_joined(view))):
            return True
    return False


def examine(fields: Mapping[str, str]) -> Finding | None:
    """Say what speaks against generating from these texts, or None.

    Args:
        fields: Text by what it is, such as `prompt`, `category`, `adapter` or `caption of the reference`, all of one
            image; a field called `negative prompt` says what the image shall *not* show.
    """
    for name, text in fields.items():
        if _is_sexual(text):
            return Finding(reason=SEXUAL, fields=(name,))
    wanted = {name: text for name, text in fields.items() if name != "negative prompt"}
    negative = fields.get("negative prompt", "")
    if _has(_INVERTING, _words(negative, pieces=True)):
        return Finding(reason=INVERTED, fields=("negative prompt",))
    for group in (wanted, {"negative prompt": negative}):
        young = tuple(name for name, text in group.items() if _names_minor(text))
        if not young:
            continue
        worse = tuple(
            name
            for name, text in group.items()
            if any(_has(words, _words(text, pieces=True)) for words in (_HARM, _DANGER, _UNDRESS))
        )
        if worse:
            return Finding(reason=MINOR, fields=tuple(dict.fromkeys((*young, *worse))))
    return None


def refuse(fields: Mapping[str, str]) -> None:
    """Raise when these texts must not be generated from. The message never repeats them, so that logs stay clean.

    Raises:
        InputError: Names the reason and the fields.
    """
    if (found := examine(fields)) is not None:
        raise InputError(f"refused: {found.reason} (in: {', '.join(found.fields)}); no setting allows it")


def is_violent(text: str) -> bool:
    """Tell whether a text speaks of harm, of weapons or of drugs."""
    words = _words(text, pieces=True)
    return _has(_HARM, words) or _has(_DANGER, words)
