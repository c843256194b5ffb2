"""Control networks pull as their settings say, several at once, and what does not fit is one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from synth_models import fast, fill, new_unet, new_work, real_sample, save_controlnet, save_diffusion, save_xl
from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

from tilth.errors import InputError, ModelError
from tilth.images import decode
from tilth.synth.draw.controls import Reader, edges_of
from tilth.synth.draw.pipelines import Studio
from tilth.synth.draw.settings import Control, Drawing, Parts

PHOTO = decode(real_sample(1).data)
SIZE = (96, 64)
FEW = Drawing(steps=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return save_diffusion(folder / "diffusion")


@pytest.fixture(scope="module")
def controlnet(folder: Path) -> Path:
    return save_controlnet(folder / "controlnet")


@pytest.fixture(scope="module")
def depth(folder: Path) -> Path:
    """A depth estimator with random weights."""
    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=37,
        backbone_out_indices=[0, 1, 2, 3],
        image_size=64,
        patch_size=16,
        fusion_hidden_size=16,
        neck_hidden_sizes=[16, 16, 32, 32],
        is_hybrid=False,
    )
    DPTForDepthEstimation(config).save_pretrained(folder / "depth")
    DPTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "depth")
    return folder / "depth"


@pytest.fixture(scope="module")
def lines(folder: Path) -> Path:
    """The weights of a line art detector, drawn at random, as the safetensors file that its pickle is turned into."""
    from controlnet_aux.lineart import Generator

    torch.manual_seed(0)
    (folder / "lines").mkdir()
    save_file(
        {name: value.contiguous() for name, value in Generator(3, 1, 3).state_dict().items()},
        folder / "lines" / "model.safetensors",
    )
    return folder / "lines"


def test_edges_and_line_art_are_found_without_any_weights() -> None:
    canny, art = (Reader().read(Control(net="x", kind=kind), PHOTO, SIZE) for kind in ("canny", "lineart"))
    assert canny.shape == art.shape == (64, 96, 3)
    assert np.array_equal(canny, edges_of(PHOTO, SIZE))
    assert (canny > 200).any()
    assert art.any()
    assert not np.array_equal(canny, art)


def test_depth_and_lines_are_read_by_the_detectors_that_are_named(
    depth: Path, lines: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reader = Reader()
    far = reader.read(Control(net="x", kind="depth", detector=str(depth)), PHOTO, SIZE)
    art = reader.read(Control(net="x", kind="lineart", detector=str(lines)), PHOTO, SIZE)
    assert far.shape == art.shape == (64, 96, 3)
    assert far.std() > 1
    assert art.std() > 1
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("kind", ["softedge", "normal", "pose", "depth"])
def test_an_absent_detector_and_one_for_something_else_are_one_line(kind: Any, lines: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        Reader().load(Control(net="x", kind=kind, detector=str(tmp_path / "absent")))
    if kind != "normal":  # it takes ten seconds to be built
        says = (
            "a depth estimator of transformers was expected"
            if kind == "depth"
            else f"no weights of the detector for {kind}"
        )
        with pytest.raises(ModelError, match=says) as caught:
            Reader().load(Control(net="x", kind=kind, detector=str(lines)))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"controls": [{"net": "x", "kind": "depth"}]},
            "depth is read by a detector, and none is named; canny, lineart need none",
        ),
        ({"controls": [{"net": "x", "detector": "y"}]}, "canny edges are found without a detector, got 'y'"),
        ({"controls": [{"net": "x", "kind": "scribble"}]}, "kind"),
        ({"controls": [{"net": "x", "start": 0.5, "end": 0.5}]}, r"0 <= start < end <= 1 must hold, got 0\.5 and 0\.5"),
        ({"controls": [{"net": "x", "scale": 3}]}, r"scale must lie in \[0, 2\], got 3"),
        ({"controls": [{"net": ""}]}, "a control needs a net"),
        ({"controls": [{"net": "x"}], "controlnet": "y"}, "name control networks as controls alone"),
    ],
)
def test_wrong_settings_of_a_control_say_what_is_right(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TypeAdapter(Parts).validate_python(settings)


def drawn(model: Path, *controls: Control, images: int = 1) -> np.ndarray:
    studio = Studio(str(model), Parts(controls=controls), device="cpu")
    prompts, seeds = ["a red knife", "a blue bottle"][:images], [5, 6][:images]
    return np.stack(studio.along_edges(prompts, seeds, [PHOTO[:40, :40]] * images, FEW)).astype(int)  # type: ignore[arg-type]


def test_one_control_draws_what_the_controlnet_of_canny_edges_draws(model: Path, controlnet: Path) -> None:
    studio = Studio(str(model), Parts(controlnet=str(controlnet)), device="cpu")
    [plain] = studio.along_edges(["a red knife"], [5], [PHOTO[:40, :40]], FEW)
    assert np.array_equal(drawn(model, Control(net=str(controlnet)))[0], plain)


def test_several_controls_pull_together_and_each_as_its_scale_and_range_say(
    model: Path, controlnet: Path, depth: Path
) -> None:
    def both(**settings: float) -> np.ndarray:
        second = Control(net=str(controlnet), kind="depth", detector=str(depth), **settings)  # type: ignore[arg-type]
        return drawn(model, Control(net=str(controlnet)), second, images=2)

    alone, together = drawn(model, Control(net=str(controlnet)), images=2), both()
    assert np.abs(together - alone).mean() > 1
    assert np.abs(both(scale=0) - alone).mean() < 1
    early = both(end=0.3)
    assert np.abs(early - alone).mean() > 1
    assert np.abs(early - together).mean() > 1


def test_stable_diffusion_xl_draws_by_every_verb_and_along_two_controls_that_pull_in_a_batch(tmp_path: Path) -> None:
    model, net = save_xl(tmp_path / "xl")
    controls = (Control(net=str(net)), Control(net=str(net), kind="lineart", end=0.5))
    prompts, seeds, references = ["a red knife", "a blue bottle"], [5, 6], [PHOTO[:40, :40]] * 2
    holes = [np.full((32, 32), 255, np.uint8)] * 2
    studio = Studio(str(model), Parts(controls=controls), device="cpu")
    drawn = [
        studio.from_text(prompts, seeds, FEW),
        studio.along_edges(prompts, seeds, references, FEW),
        studio.from_images(prompts, seeds, references, FEW),
        studio.into_holes(prompts, seeds, references, holes, FEW),
    ]
    for images in drawn:
        assert [image if isinstance(image, str) else image.shape for image in images] == [(32, 32, 3)] * 2
    first, second = drawn[0][0], drawn[1][0]
    assert np.abs(first.astype(int) - second).mean() > 1  # type: ignore[union-attr]
    other = save_controlnet(tmp_path / "of-1.5")
    with pytest.raises(
        ModelError, match="cross_attention_dim is 32 where the model has 64, addition_embed_type is None"
    ):
        Studio(str(model), Parts(controlnet=str(other)), device="cpu")


def test_how_an_image_was_steered_is_in_its_origin(model: Path, controlnet: Path, depth: Path, tmp_path: Path) -> None:
    work = new_work(tmp_path)
    fill(work)
    controls = (
        Control(net=str(controlnet), scale=0.5, end=0.8),
        Control(net=str(controlnet), kind="depth", detector=str(depth)),
    )
    fast(model, count=3, categories=("knife",), methods={"edges": 1}, parts=Parts(controls=controls)).run(work)
    for sample in (s for s in work.dataset.samples() if s.made):
        first, second = sample.origin["controls"]
        assert (first["name"], first["kind"], first["scale"], first["end"]) == (str(controlnet), "canny", 0.5, 0.8)
        assert (second["kind"], second["detector"]["name"]) == ("depth", str(depth))
        assert len(second["digest"]) == len(second["detector"]["digest"]) == 12


def other_unet(**changes: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_config({**new_unet().config, **changes})  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: ControlNetModel.from_unet(
                other_unet(cross_attention_dim=64), conditioning_embedding_out_channels=(8, 8, 8)
            ),
            "was made for another model than .*: cross_attention_dim is 64 where the model has 32",
        ),
        (
            lambda: ControlNetModel.from_unet(
                other_unet(block_out_channels=(16, 64)), conditioning_embedding_out_channels=(8, 8, 8)
            ),
            r"was made for another model than .*: block_out_channels is \[16, 64\] where the model has \[16, 32\]",
        ),
        (new_unet, "a control network was expected, this is UNet2DConditionModel"),
    ],
    ids=["of another family", "of another size", "no control network"],
)
def test_a_control_network_for_another_model_is_one_line(
    model: Path, tmp_path: Path, make: Callable[[], Any], says: str
) -> None:
    make().save_pretrained(tmp_path / "net", safe_serialization=True)
    with pytest.raises(ModelError, match=says) as caught:
        Studio(str(model), Parts(controls=(Control(net=str(tmp_path / "net")),)), device="cpu")
    assert "\n" not in str(caught.value)


def test_what_is_never_drawn_is_refused_in_names_and_files_of_nets_detectors_and_models_for_holes(
    model: Path, controlnet: Path, lines: Path, tmp_path: Path
) -> None:
    for parts in (
        {"controls": [{"net": "some/nude-depth@1", "kind": "lineart"}]},
        {"controls": [{"net": "x", "kind": "pose", "detector": "some/porn-pose@1"}]},
        {"inpainting": "some/nsfw-inpainting@1"},
    ):
        with pytest.raises(ValueError, match="refused: sexual content"):
            fast(model, parts=TypeAdapter(Parts).validate_python(parts))
    file = tmp_path / "told" / "model.safetensors"
    file.parent.mkdir()
    save_file({"a": torch.zeros(1)}, file, metadata={"ss_tag_frequency": '{"nude": 300}'})
    with pytest.raises(InputError, match="refused: sexual content"):
        Studio(
            str(model),
            Parts(controls=(Control(net=str(controlnet), kind="softedge", detector=str(file.parent)),)),
            device="cpu",
        )
