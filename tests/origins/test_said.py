"""What a file says of where it comes from is read whoever wrote it, and nothing said is said as that."""

import io
import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise import noise_image
from PIL import Image as PilImage
from PIL import PngImagePlugin

from tilth.claims import Json
from tilth.errors import InputError
from tilth.images import decode, image_id
from tilth.origins.packet import COMPOSITE, KINDS, MADE, encode, kept
from tilth.origins.said import Said, said, words_in
from tilth.origins.signed import signature_in, signer

PIXELS = decode(noise_image(3))
ORIGIN: dict[str, Json] = {
    "prompt": 'a "knife" & <a spoon>, 100 %',
    "negative_prompt": "blurry",
    "seed": 7,
    "size_wh": [64, 48],
    "model": "starter:diffusion",
    "model_digest": "0123456789ab",
    "adapters": [{"name": "neon", "digest": "ba9876543210", "weight": 0.5}],
    "controlnet": None,
    "parents": ["f" * 64],
    "licence": "openrail AND CC-BY-4.0",
    "licence_of_model": "openrail",
    "licence_of_parent": "CC-BY-4.0",
    "refusals": "tilth-refusals-2",
    "digital_source_type": MADE,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_keeps_the_whole_origin_and_the_word_that_other_tools_look_for(
    kind: Literal["png", "webp", "jpeg"],
) -> None:
    data = encode(PIXELS, ORIGIN, kind)
    found = said(data)
    assert found == Said(origin=ORIGIN, source_types=("trainedAlgorithmicMedia",), places=("XMP",))
    if kind != "jpeg":
        assert image_id(decode(data)) == image_id(PIXELS)
    with PilImage.open(io.BytesIO(data)) as image:
        told = image.getxmp()["xmpmeta"]["RDF"]["Description"]  # as a standard reader finds it
    assert told["DigitalSourceType"] == MADE
    assert told["AIPromptInformation"] == ORIGIN["prompt"]
    assert told["AISystemUsed"] == "starter:diffusion 0123456789ab"


@given(
    st.dictionaries(
        st.sampled_from(["prompt", "seed", "style", "parents"]), st.text() | st.lists(st.text()), min_size=1
    )
)
def test_whatever_a_prompt_holds_comes_back(told: dict[str, Json]) -> None:
    assert said(encode(PIXELS, {**told, "digital_source_type": COMPOSITE})).origin == {
        **told,
        "digital_source_type": COMPOSITE,
    }


def jpeg(**about: object) -> bytes:
    out = io.BytesIO()
    PilImage.fromarray(PIXELS).save(out, "JPEG", **about)  # type: ignore[arg-type]
    return out.getvalue()


def test_a_camera_says_that_it_is_one_and_nothing_says_nothing() -> None:
    camera = b"http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
    xmp = b'<x:xmpmeta><r Iptc4xmpExt:DigitalSourceType="' + camera + b'"/></x:xmpmeta>'
    assert said(jpeg(xmp=xmp)) == Said(source_types=("digitalCapture",), places=("XMP",))
    assert said(noise_image(4)) == Said()


def test_prompts_of_other_tools_are_found_in_exif_too() -> None:
    exif = PilImage.Exif()
    text = "a knife\nSteps: 20, Sampler: Euler, Seed: 3"
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")
    found = said(jpeg(exif=exif))
    assert (found.origin, found.places) == ({"prompt": text}, ("EXIF",))


def test_all_words_of_a_file_are_read() -> None:
    exif = PilImage.Exif()
    exif[0x010E] = "a caption"
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Comment", "a comment")
    out = io.BytesIO()
    PilImage.fromarray(PIXELS).save(out, "PNG", pnginfo=info, exif=exif)
    xmp = b'<x:xmpmeta><dc:subject>a keyword</dc:subject><a dc:title="a title"/></x:xmpmeta>'
    words = words_in(out.getvalue()) + words_in(jpeg(xmp=xmp))
    assert all(each in words for each in ("a caption", "a comment", "a keyword", "a title"))


@pytest.mark.parametrize("origin", ["{", "[]", "[" * 100_000, "null", '{"prompt": ' + "9" * 70_000 + "}"], ids=range(5))
def test_a_broken_origin_is_none(origin: str) -> None:
    xmp = f'<x:xmpmeta tilth:origin="{origin.replace(chr(34), "&quot;")}"></x:xmpmeta>'.encode()
    out = io.BytesIO()
    PilImage.fromarray(PIXELS).save(out, "WEBP", xmp=xmp)
    assert said(out.getvalue()).origin == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_signature_holds_until_somebody_changes_the_file(kind: Literal["png", "webp", "jpeg"]) -> None:
    data = signer("test")(encode(PIXELS, ORIGIN, kind), ORIGIN)
    whole = signature_in(data)
    assert whole is not None
    assert (whole.state, whole.origin) == ("Valid", kept(ORIGIN))
    assert "test signer" in whole.by
    assert said(data).has_manifest
    assert image_id(decode(data)) == image_id(decode(encode(PIXELS, ORIGIN, kind)))
    changed = signature_in(data.replace(b"starter:diffusion", b"another:diffusion"[:17], 1))
    assert changed is not None
    assert changed.state == "Invalid"
    assert any("mismatch" in why for why in changed.why)


def test_a_file_without_a_manifest_has_no_signature() -> None:
    assert signature_in(encode(PIXELS, ORIGIN)) is None


def test_a_jpeg_refuses_an_origin_that_it_cannot_hold() -> None:
    with pytest.raises(InputError, match="a JPEG holds 60000; write png or webp"):
        encode(PIXELS, {"prompt": "x" * 70_000}, "jpeg")
    assert json.dumps(said(encode(PIXELS, {"prompt": "x" * 40_000})).origin)
