"""The origin of an image in its own file: IPTC's digital source type, licence, prompt and all that is needed to draw it again, as XMP.

XMP is the one place that PNG, JPEG and WebP all have. The vocabulary is IPTC's
(https://cv.iptc.org/newscodes/digitalsourcetype/, https://www.iptc.org/std/photometadata/specification/IPTC-PhotoMetadata).
"""

import io
import json
from collections.abc import Mapping
from html import escape
from typing import Any, Literal

from PIL import Image as PilImage
from PIL.PngImagePlugin import PngInfo

from tilth.claims import Json
from tilth.errors import InputError
from tilth.images import Image, encode_png
from tilth.samples import is_made

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MADE = SOURCE_TYPES + "trainedAlgorithmicMedia"
COMPOSITE = SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"
PASTED = SOURCE_TYPES + "compositeCapture"
OURS = "tilth:origin"
KINDS = ("png", "webp", "jpeg")
MAX_TEXT = 64 * 2**10
MOST_IN_JPEG = 60_000  # bytes of XMP that fit into one segment
# What is kept of an origin; where a file lay is the business of whoever has it.
KEPT = (
    "prompt", "negative_prompt", "seed", "model", "model_digest", "method", "style", "category", "parents", "adapters",
    "controlnet", "hole_xyxy", "steps", "guidance", "scheduler", "side", "size_wh", "strength", "digital_source_type",
    "licence", "licence_of_model", "licence_of_parent", "refusals", "controls", "pair", "instead", "mask", "blend",
    "consent", "networks", "face_xyxy",
)  # fmt: skip
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/" xmlns:tilth="urn:tilth:origin:1"{}/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def kept(origin: Mapping[str, Json]) -> dict[str, Json]:
    """Return the part of an origin that travels in the file."""
    return {name: origin[name] for name in KEPT if name in origin}


def parsed(text: str) -> dict[str, Json]:
    """Read an origin that a file holds; one that is broken or endless is none."""
    if not text or len(text) > MAX_TEXT:
        return {}
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return kept(told) if isinstance(told, dict) else {}


def packet(origin: Mapping[str, Json]) -> str:
    """Write an origin as an XMP packet."""
    model = " ".join(str(origin[name]) for name in ("model", "model_digest") if origin.get(name))
    told = {
        "Iptc4xmpExt:DigitalSourceType": str(origin.get("digital_source_type") or MADE),
        "Iptc4xmpExt:AISystemUsed": model,
        "Iptc4xmpExt:AIPromptInformation": str(origin.get("prompt") or ""),
        "xmpRights:UsageTerms": str(origin.get("licence") or ""),
        OURS: json.dumps(kept(origin), sort_keys=True),
    }
    return _XMP.format("".join(f' {name}="{escape(text)}"' for name, text in told.items() if text))


def encode(image: Image, origin: Mapping[str, Json], kind: Literal["png", "webp", "jpeg"] = "png") -> bytes:
    """Encode an image that was made, with its origin in the file; PNG and WebP lose nothing.

    Args:
        image: RGB pixels.
        origin: Of it.
        kind: Of the file.

    Raises:
        InputError: The origin is longer than the kind of file can hold.
    """
    told = packet(origin).encode()
    out = io.BytesIO()
    picture = PilImage.fromarray(image)
    if kind == "png":
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", told.decode())
        picture.save(out, "PNG", pnginfo=text, compress_level=3)
    elif kind == "webp":
        picture.save(out, "WEBP", lossless=True, xmp=told)
    else:
        if len(told) > MOST_IN_JPEG:
            raise InputError(f"the origin has {len(told)} bytes, a JPEG holds {MOST_IN_JPEG}; write png or webp")
        picture.save(out, "JPEG", quality=95, subsampling=0, xmp=told)
    return out.getvalue()


def png_of(image: Image, origin: Mapping[str, Json]) -> bytes:
    """Encode any image without loss; one that was made goes on saying so in its file."""
    return encode(image, origin) if is_made(origin) else encode_png(image)


def mime_of(data: bytes) -> Any:
    """Return the MIME type of a file that can hold an origin; None for others."""
    if data.startswith(b"\x89PNG"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None
