"""Generated images say that they are, in the file itself; exports also say it beside them, in `samples.jsonl`.

The vocabulary is IPTC's digital source type (https://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia).
"""

import io
import json
from collections.abc import Mapping

from PIL import Image as PilImage
from PIL.PngImagePlugin import PngInfo

from tilth.claims import Json
from tilth.images import Image
from tilth.samples import UNKNOWN_LICENCE, join_licences

MADE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="{}"/></rdf:RDF></x:xmpmeta>'
)


def licence_of_all(*licences: str) -> str:
    """Join the licences of what an image was made from into an SPDX expression: each of them holds.

    >>> licence_of_all("CC0-1.0", "CC-BY-4.0 AND CC0-1.0"), licence_of_all("openrail", "MIT OR 0BSD"), licence_of_all("MIT", "")
    ('CC0-1.0 AND CC-BY-4.0', 'openrail AND (MIT OR 0BSD)', 'MIT AND unknown')
    """
    return join_licences(*(licence.strip() or UNKNOWN_LICENCE for licence in licences))


def png_with_provenance(image: Image, origin: Mapping[str, Json]) -> bytes:
    """Encode an image without loss, with its digital source type and its origin in the file."""
    told = PngInfo()
    told.add_itxt("XML:com.adobe.xmp", XMP.format(origin.get("digital_source_type", MADE)))
    told.add_itxt("tilth:origin", json.dumps(origin, sort_keys=True))
    out = io.BytesIO()
    PilImage.fromarray(image).save(out, "PNG", pnginfo=told, compress_level=3)
    return out.getvalue()
