"""What an image file says of where it comes from, by whatever tool wrote it; no pixel is decoded, and nothing said is never "real"."""

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import unescape

from PIL import Image as PilImage

from tilth.claims import Json
from tilth.origins.packet import MAX_TEXT, OURS, SOURCE_TYPES, kept, parsed
from tilth.samples import join_licences

# IPTC's word for it, in XMP or in a C2PA manifest
WORD = re.compile(rb"https?://cv\.iptc\.org/newscodes/digitalsourcetype/([A-Za-z]{3,60})")
ALGORITHMIC = (
    "trainedAlgorithmicMedia",
    "compositeWithTrainedAlgorithmicMedia",
    "compositeSynthetic",
    "algorithmicMedia",
)
# of web interfaces for Stable Diffusion: the prompt with its settings, or the graph that made the image
THEIRS = ("parameters", "prompt", "workflow", "invokeai_metadata", "Dream")
XMP = re.compile(rb"<x:xmpmeta.{0,262144}?</x:xmpmeta>", re.DOTALL)
ORIGIN = re.compile(rb'tilth:origin="([^"]{1,%d})"' % (4 * MAX_TEXT))
EXIF_WORDS = (
    0x010E,
    0x013B,
    0x8298,
    0x9C9B,
    0x9C9C,
    0x9C9D,
    0x9C9E,
    0x9C9F,
)  # description, artist, copyright, XPTitle …
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
C2PA_MARK = b"c2pa"
MARKUP = re.compile(r"https?://[^\s\"<>]+|</?[\w:?]+|[\w:]+=|[<>\"]")
PROMPTLIKE = re.compile(r"\bSteps: \d+, .*\b(?:Sampler|Seed|CFG scale|Model)\b", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a file says.

    Args:
        origin: As `NewSample` has it; empty when nothing says that the image was made.
        source_types: IPTC's words in it, without the address.
        places: Where it was said: `XMP`, `PNG text`, `EXIF`.
        has_manifest: Whether it holds a C2PA manifest; who signed it is told by `signed.py`.
    """

    origin: Mapping[str, Json] = field(default_factory=dict)
    source_types: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    has_manifest: bool = False


def origin_in(data: bytes, given: Mapping[str, Json]) -> dict[str, Json]:
    """Return the origin of an image: what is given, and what its file says of having been made.

    A licence that the file names stays beside one that is given, as both bind.
    """
    told = said(data).origin
    if not told:
        return dict(given)
    licence = join_licences(str(given.get("licence") or ""), str(told.get("licence") or ""))
    return {**told, **given, "licence": licence}


def said(data: bytes) -> Said:
    """Read what an image file says of its origin."""
    words = tuple(dict.fromkeys(word.decode() for word in WORD.findall(data)))
    made = [word for word in ALGORITHMIC if word in words]
    origin: dict[str, Json] = {"digital_source_type": SOURCE_TYPES + made[0]} if made else {}
    places = []
    packets = XMP.findall(data) if b"<x:xmpmeta" in data else []
    if any(WORD.search(each) or ORIGIN.search(each) for each in packets):
        places.append("XMP")
    ours = next((found for each in packets if (found := _ours_in(each))), {})
    texts = dict(_texts(data))
    older = parsed(texts.get(OURS, ""))
    theirs = next(((place, text) for place, text in texts.items() if place in THEIRS or PROMPTLIKE.search(text)), None)
    if older or (theirs and theirs[0] != "EXIF"):
        places.append("PNG text")
    elif theirs:
        places.append("EXIF")
    if ours or older:
        origin |= kept({**older, **ours})
    elif theirs:
        origin["prompt"] = theirs[1][:2000]
    return Said(
        origin=origin,
        source_types=words,
        places=tuple(places),
        has_manifest=C2PA_MARK in data and b"jumb" in data,
    )


def words_in(data: bytes) -> str:
    """Return all words that an image file carries beside its pixels: description, caption, keywords, prompt."""
    packets = (MARKUP.sub(" ", unescape(each.decode(errors="replace"))) for each in XMP.findall(data))
    return " ".join([*(text for _, text in _texts(data)), *packets])[: 4 * MAX_TEXT]


def _ours_in(xmp: bytes) -> dict[str, Json]:
    found = ORIGIN.search(xmp)
    return parsed(unescape(found[1].decode(errors="replace"))) if found else {}


def _texts(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the texts of a PNG by their names, and what EXIF has in words as `EXIF`."""
    try:
        with PilImage.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "TIFF")) as image:
            texts = {str(name): value for name, value in image.info.items() if isinstance(value, str)}
            exif = image.getexif()
            values = [exif.get(tag) for tag in EXIF_WORDS] + [exif.get_ifd(EXIF_IFD).get(USER_COMMENT)]
    except Exception:  # noqa: BLE001  # decoders raise anything; whether it is an image is judged elsewhere
        return
    texts.pop("XML:com.adobe.xmp", None)
    yield from texts.items()
    if words := " ".join(_decoded(value) for value in values if value):
        yield "EXIF", words[:MAX_TEXT]


def _decoded(value: object) -> str:
    if not isinstance(value, bytes):
        return str(value)
    if value.startswith(b"UNICODE\0"):
        rest = value[8:]
        return rest.decode("utf-16-be" if rest[:1] == b"\0" else "utf-16-le", "replace")
    if value[1::2].count(0) * 4 > len(value):  # XPTitle and its like
        return value.decode("utf-16-le", "replace").rstrip("\0")
    return value.removeprefix(b"ASCII\0\0\0").decode("utf-8", "replace")
