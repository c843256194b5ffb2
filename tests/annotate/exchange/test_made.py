"""An image that was made stays one through every export and import, and is bound by the licences of all that it was made of."""

import io
from pathlib import Path
from typing import Literal

import pytest
from label_files import images, named
from label_sets import SIDE, opened, silent
from noise import noise_image
from PIL import Image, PngImagePlugin

from tilth.annotate.exchange.exporting import export
from tilth.annotate.exchange.importing import Import
from tilth.annotate.exchange.licences import licence_of, origins
from tilth.annotate.formats.writing import FORMATS
from tilth.claims import Claim
from tilth.engine.work import Work
from tilth.images import decode
from tilth.origins.packet import COMPOSITE, KINDS, MADE, encode, packet
from tilth.origins.said import said
from tilth.origins.signed import signature_in, signer
from tilth.policy import Policy
from tilth.samples import NewSample

ORIGIN = {"prompt": "a knife on a table", "model": "starter:sd", "licence": "openrail++", "digital_source_type": MADE}


@pytest.mark.parametrize("format_", FORMATS)
def test_a_generated_image_comes_back_as_one(policy: Policy, tmp_path: Path, format_: str) -> None:
    with opened(tmp_path, policy) as work:
        claim = Claim(category="knife", box_xyxy=(1, 1, 9, 9), source="human:ann", asked=policy.names)
        data = encode(decode(noise_image(1, SIDE)), ORIGIN)
        work.add("made", [NewSample(data=data, origin=ORIGIN, claims=(claim,))])
        export(work.dataset, tmp_path / "out", format_, say=silent)
    (tmp_path / "back").mkdir()
    with opened(tmp_path / "back", policy) as back:
        Import(path=tmp_path / "out", licence="CC0-1.0").run(back)
        (sample,) = back.dataset.samples()
        assert sample.made
        assert {name: sample.origin[name] for name in ORIGIN} == {**ORIGIN, "licence": "CC0-1.0 AND openrail++"}
        assert sample.origin["step"] == back.name, "the step that took it in, not the one that made it"
        assert back.dataset.count("made") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_signed_file_of_any_kind_is_exported_and_comes_back_byte_for_byte(
    policy: Policy, tmp_path: Path, kind: Literal["png", "webp", "jpeg"]
) -> None:
    data = signer("test")(encode(decode(noise_image(1, SIDE)), ORIGIN, kind), ORIGIN)
    with opened(tmp_path, policy) as work:
        claim = Claim(category="knife", box_xyxy=(1, 1, 9, 9), source="human:ann", asked=policy.names)
        work.add("made", [NewSample(data=data, origin=ORIGIN, claims=(claim,))])
        export(work.dataset, tmp_path / "out", "coco", say=silent)
    (tmp_path / "back").mkdir()
    with opened(tmp_path / "back", policy) as back:
        Import(path=tmp_path / "out").run(back)
        (sample,) = back.dataset.samples()
    assert sample.data == data
    assert {name: sample.origin[name] for name in ORIGIN} == ORIGIN
    signature = signature_in(sample.data)
    assert signature is not None
    assert (signature.state, dict(signature.origin)) == ("Valid", ORIGIN)
    assert said(sample.data).has_manifest


def png(**texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_itxt(name.replace("__", ":"), text)
    out = io.BytesIO()
    Image.open(io.BytesIO(noise_image(5))).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def jpeg(xmp: str) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(noise_image(6))).convert("RGB").save(out, "JPEG", xmp=xmp.encode())
    return out.getvalue()


SAYS: dict[str, tuple[bytes, dict[str, object] | None]] = {
    "nothing": (noise_image(4), None),
    "a caption": (png(Comment="a knife"), None),
    "an origin of an older file": (png(tilth__origin='{"prompt": "a cup", "seed": 3}'), {"prompt": "a cup", "seed": 3}),
    "an origin that is no JSON": (png(tilth__origin="{"), None),
    "its prompt": (png(parameters="a knife\nSteps: 20"), {"prompt": "a knife\nSteps: 20"}),
    "IPTC's word": (jpeg(packet({"digital_source_type": MADE})), {"digital_source_type": MADE}),
    "IPTC's word for a composite": (
        jpeg(packet({"digital_source_type": COMPOSITE})),
        {"digital_source_type": COMPOSITE},
    ),
}


@pytest.mark.parametrize("says", SAYS)
def test_what_a_file_says_of_being_made_is_kept(work: Work, tmp_path: Path, says: str) -> None:
    data, told = SAYS[says]
    images(tmp_path / "set", "a.png")
    (tmp_path / "set" / "a.png").write_bytes(data)
    Import(path=tmp_path / "set").run(work)
    sample = named(work)["a.png"]
    assert sample.made == (told is not None)
    assert {name: sample.origin.get(name) for name in told or ()} == (told or {})


def test_a_child_of_a_photograph_leaves_under_both_licences(policy: Policy, tmp_path: Path) -> None:
    with opened(tmp_path, policy) as work:
        claim = Claim(category="knife", box_xyxy=(1, 1, 9, 9), source="human:ann", asked=policy.names)
        ids: list[str] = []
        chain = [("CC-BY-4.0", []), ("openrail++", [0]), ("openrail++", [1]), ("openrail++", [4]), ("", [])]
        for n, (licence, parents) in enumerate(chain):
            above = [ids[p] if p < len(ids) else "f" * 64 for p in parents]
            origin = {"licence": licence, "parents": above, "source": f"{n}"}
            work.add(f"{n}", [NewSample(data=noise_image(n, SIDE), origin=origin, claims=(claim,))])
            ids.append(next(s.id for s in work.dataset.samples(images=False) if s.origin["source"] == f"{n}"))
        found = {
            s.origin["source"]: licence_of(s.origin, origins(work.dataset)) for s in work.dataset.samples(images=False)
        }
    assert found == {
        "0": "CC-BY-4.0",
        "1": "openrail++ AND CC-BY-4.0",
        "2": "openrail++ AND CC-BY-4.0",
        "3": "openrail++ AND unknown",
        "4": "",
    }


def test_a_made_photograph_that_is_turned_upright_goes_on_saying_so(policy: Policy, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.open(io.BytesIO(noise_image(5, SIDE))).convert("RGB").save(out, "JPEG", exif=exif, xmp=packet({}).encode())
    with opened(tmp_path, policy) as work:
        images(tmp_path / "set", "a.png")
        (tmp_path / "set" / "a.png").write_bytes(out.getvalue())
        Import(path=tmp_path / "set").run(work)
        assert export(work.dataset, tmp_path / "out", "coco", unlabelled=True, say=silent)["turned_upright"] == 1
    (tmp_path / "back").mkdir()
    with opened(tmp_path / "back", policy) as back:
        Import(path=tmp_path / "out").run(back)
        assert [s.made for s in back.dataset.samples()] == [True]
