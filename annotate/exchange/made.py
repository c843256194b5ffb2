"""What an image file says of having been made by a model, which it keeps through every export and import."""

import io
import json
import re
from collections.abc import Mapping

from PIL import Image as PilImage
from PIL.PngImagePlugin import PngInfo

from tilth.claims import Json
from tilth.images import Image, encode_png
from tilth.samples import is_made, join_licences

# IPTC's word for it, in XMP or in a C2PA manifest; https://cv.iptc.org/newscodes/digitalsourcetype/
WORD = re.compile(rb"http://cv\.iptc\.org/newscodes/digitalsourcetype/(?:compositeWithT|t)rainedAlgorithmicMedia")
OURS = "tilth:origin"
# of web interfaces for Stable Diffusion: the prompt with its settings, or the graph that made the image
THEIRS = ("parameters", "prompt", "workflow", "invokeai_metadata", "Dream")
LOOKED_AT = 256 * 2**10  # bytes of a file, where its metadata lie
MAX_TEXT = 64 * 2**10
KEPT = (
    "prompt", "negative_prompt", "seed", "model", "model_digest", "method", "style", "category", "parents", "adapters",
    "controlnet", "hole_xyxy", "steps", "guidance", "scheduler", "side", "digital_source_type", "licence", "licence_of_parent",
)  # fmt: skip


def origin_in(data: bytes, given: Mapping[str, Json]) -> dict[str, Json]:
    """Return the origin of an image: what is given, and what its file says of having been made.

    A licence that the file names stays beside one that is given, as both bind.
    """
    told = _told(data)
    if not told:
        return dict(given)
    licence = join_licences(str(given.get("licence") or ""), str(told.get("licence") or ""))
    return {**told, **given, "licence": licence}


def png_of(image: Image, origin: Mapping[str, Json]) -> bytes:
    """Encode an image without loss; one that was made goes on saying so in its file."""
    if not is_made(origin):
        return encode_png(image)
    told = PngInfo()
    told.add_itxt(OURS, json.dumps({name: origin[name] for name in KEPT if name in origin}, sort_keys=True))
    out = io.BytesIO()
    PilImage.fromarray(image).save(out, "PNG", pnginfo=told)
    return out.getvalue()


def _told(data: bytes) -> dict[str, Json]:
    head = data[:LOOKED_AT]
    word = WORD.search(head)
    told: dict[str, Json] = {"digital_source_type": word[0].decode()} if word else {}
    if data.startswith(b"\x89PNG") and (b"iTXt" in head or b"tEXt" in head):
        told |= _texts(data)
    return told


def _texts(data: bytes) -> dict[str, Json]:
    try:
        with PilImage.open(io.BytesIO(data), formats=("PNG",)) as image:
            texts = {name: str(text) for name, text in image.info.items() if name in (OURS, *THEIRS)}
    except Exception:  # noqa: BLE001  # decoders raise anything; whether it is an image is judged elsewhere
        return {}
    if (ours := texts.get(OURS)) and len(ours) <= MAX_TEXT:
        try:
            origin = json.loads(ours)
        except (ValueError, RecursionError):
            origin = None
        if isinstance(origin, dict):
            return {name: origin[name] for name in KEPT if name in origin}
    theirs = next((texts[name] for name in THEIRS if texts.get(name)), "")
    return {"prompt": theirs[:2000]} if theirs else {}
