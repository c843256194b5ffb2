"""All backends and families answer alike: the same weights give the same boxes, whichever code multiplies them."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from grounding_parts import pictures, random_model
from noise import noise_image

from tilth.annotate.grounding import tiles
from tilth.annotate.grounding.ground import Ground
from tilth.annotate.grounding.model import Finder, Seen
from tilth.annotate.grounding.phrases import questions
from tilth.engine.work import Work
from tilth.errors import ModelError
from tilth.policy import Policy
from tilth.samples import NewSample


@pytest.fixture(scope="session", params=["GroundingDino", "MMGroundingDino"])
def family_model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> str:
    return random_model(tmp_path_factory.mktemp("family"), request.param)


@pytest.fixture(scope="session")
def swin_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return random_model(tmp_path_factory.mktemp("swin"))


def same(a: list[Seen], b: list[Seen], score: float, box_px: float) -> None:
    assert len(a) == len(b) > 0
    assert [one.phrase for one in a] == [one.phrase for one in b]
    np.testing.assert_allclose([one.score for one in a], [one.score for one in b], atol=score)
    np.testing.assert_allclose([one.box_xyxy for one in a], [one.box_xyxy for one in b], atol=box_px)


@pytest.mark.parametrize("which", ["starter:grounding", "swin"])
def test_the_package_and_the_port_agree_on_boxes_and_scores(which: str, swin_model: str, policy: Policy) -> None:
    import torch

    pytest.importorskip("groundingdino")
    model = swin_model if which == "swin" else which
    finders = [
        Finder(model, questions(policy.pictured), backend=name, device="cpu", floor=0.0)
        for name in ("transformers", "groundingdino-py")
    ]
    text, weights = finders[0]._texts[0]
    pixels = torch.from_numpy(
        np.stack([finders[0]._sizes.prepare(i, (96, 128)) for i in pictures((96, 128), (60, 80))])
    )
    with torch.inference_mode():
        (port_logits, port_boxes), (logits, boxes) = (finder._network(pixels, text) for finder in finders)
    n = weights.shape[1]
    torch.testing.assert_close(boxes, port_boxes, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[..., :n].sigmoid(), port_logits[..., :n].sigmoid(), atol=1e-4, rtol=0)
    assert port_boxes.std() > 0.01, "a model that always says the same would agree with anything"
    images = pictures((96, 96), (64, 64), (200, 100))
    for ours, theirs in zip(*(finder.find(images) for finder in finders), strict=True):
        same(ours, theirs, 1e-4, 1e-2)


@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize(
    "family", ["grounding_dino.modeling_grounding_dino", "mm_grounding_dino.modeling_mm_grounding_dino"]
)
def test_attention_as_one_gather_is_the_librarys_attention(family: str, coordinates: int) -> None:
    import torch
    from transformers import GroundingDinoConfig, MMGroundingDinoConfig

    from tilth.annotate.grounding.deformable import use_gather

    of, config_of = (
        ("GroundingDino", GroundingDinoConfig) if family[0] == "g" else ("MMGroundingDino", MMGroundingDinoConfig)
    )
    module = importlib.import_module(f"transformers.models.{family}")
    torch.manual_seed(0)
    config = config_of(d_model=32, num_feature_levels=3)
    attention = getattr(module, f"{of}MultiscaleDeformableAttention")(config, num_heads=4, n_points=5).eval()
    torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.4)  # far enough that some points lie outside
    shapes = [(7, 11), (4, 5), (1, 3)]
    places = sum(h * w for h, w in shapes)
    mask = torch.ones(2, places, dtype=torch.bool)
    mask[1, 20:30] = False  # what is padding counts for nothing
    asked = {
        "hidden_states": torch.randn(2, 30, 32),
        "attention_mask": mask,
        "encoder_hidden_states": torch.randn(2, places, 32),
        "position_embeddings": torch.randn(2, 30, 32),
        "reference_points": torch.rand(2, 30, 3, coordinates) * 1.2 - 0.1,
        "spatial_shapes": torch.tensor(shapes),
        "spatial_shapes_list": shapes,
    }
    with torch.no_grad():
        expected, weights = attention(**asked)
        use_gather(attention)
        found, shares = attention(**asked)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(shares, weights, atol=1e-6, rtol=0)
    assert expected.std() > 0.1


def test_building_the_package_leaves_its_modules_as_they_were(swin_model: str, policy: Policy) -> None:
    package = pytest.importorskip("groundingdino.models.GroundingDINO.groundingdino")
    before = dict(vars(package))
    Finder(swin_model, questions(policy.pictured), backend="groundingdino-py", device="cpu")
    assert {name for name, value in vars(package).items() if before.get(name) is not value} == set()


def test_what_the_package_cannot_be_is_refused_with_the_setting(tmp_path: Path, policy: Policy) -> None:
    pytest.importorskip("groundingdino")
    with pytest.raises(ModelError, match=r"no model with model_type 'mm-grounding-dino'; use the backend transformers"):
        Finder(random_model(tmp_path, "MMGroundingDino"), questions(policy.pictured), backend="groundingdino-py")


def test_a_recipe_chooses_the_backend_by_name(work: Work, swin_model: str) -> None:
    pytest.importorskip("groundingdino")
    work.device = "cpu"
    work.add("images", [NewSample(data=noise_image(n, 64), origin={}) for n in range(3)])
    facts = Ground(model=swin_model, backend="groundingdino-py", threshold=0.1).run(work)
    assert (facts["looked_at_now"], facts["failed"]) == (3, 0)


def test_every_family_sees_in_a_batch_what_it_sees_alone(family_model: str, policy: Policy) -> None:
    finder = Finder(family_model, questions(policy.pictured), device="cpu", floor=0.0)
    images = pictures((96, 96), (64, 64), (200, 100), (96, 96))
    for image, together in zip(images, finder.find(images), strict=True):
        same(finder.find([image])[0], together, 5e-5, 5e-2)


def test_half_precision_finds_the_same_things(policy: Policy) -> None:
    from tilth.starter.world.scene import draw_spec, render
    from tilth.starter.world.sets import scene_rng

    images = []
    for n in range(12):
        rng = scene_rng("held_out", n)
        images.append(render(draw_spec(rng), rng, side=96).image)
    full, half = (
        Finder("starter:grounding", questions(policy.pictured), device="cpu", floor=0.5, precision=precision)
        for precision in ("float32", "bfloat16")
    )
    a, b = ([[one.phrase for one in seen] for seen in finder.find(images)] for finder in (full, half))
    assert sum(x == y for x, y in zip(a, b, strict=True)) >= 10, "of 12 images"


def test_workers_and_memory_change_nothing(swin_model: str, policy: Policy) -> None:
    finder = Finder(swin_model, questions(policy.pictured), device="cpu", floor=0.0)
    images = pictures((96, 96), (64, 64), (96, 96), (90, 90), (200, 100))
    finder._workers = 1
    expected = finder.find(images)
    finder._workers, finder._pixels_at_once = 3, 1
    for one, other in zip(expected, finder.find(images), strict=True):
        same(one, other, 5e-5, 5e-2)


@pytest.mark.parametrize(("size_wh", "per_side"), [((100, 70), 2), ((333, 90), 3), ((64, 64), 4)])
def test_tiles_cover_the_image_and_show_every_small_thing_whole_once_at_least(
    size_wh: tuple[int, int], per_side: int
) -> None:
    cut = tiles.cut(size_wh, per_side)
    assert len(cut) == per_side**2
    seen = np.zeros(size_wh[::-1], bool)
    for x0, y0, x1, y1 in cut:
        assert 0 <= x0 < x1 <= size_wh[0]
        assert 0 <= y0 < y1 <= size_wh[1]
        seen[y0:y1, x0:x1] = True
    assert seen.all()
    width, height = ((cut[0][n + 2] - cut[0][n]) * tiles.OVERLAP - 2 * tiles.EDGE_PX - 2 for n in (0, 1))
    rng = np.random.default_rng(0)
    for x, y in rng.uniform((0, 0), (size_wh[0] - width, size_wh[1] - height), (200, 2)):
        inside = [
            tile
            for tile in cut
            if tile[0] <= x
            and tile[1] <= y
            and x + width <= tile[2]
            and y + height <= tile[3]
            and tiles.whole((x - tile[0], y - tile[1], x - tile[0] + width, y - tile[1] + height), tile, size_wh)
        ]
        assert inside


def test_tiles_find_small_things_that_the_whole_picture_hides(policy: Policy) -> None:
    from tilth.geometry import iou
    from tilth.starter.world.scene import UNSAFE_KINDS, Spec, render
    from tilth.starter.world.sets import scene_rng

    hits = {1: 0, 3: 0}
    wide, truths = [], []
    for n in range(12):
        rng = scene_rng("held_out", 200_000 + n)
        kind = UNSAFE_KINDS[n % len(UNSAFE_KINDS)]
        scenes = [
            render(Spec(things=((k, "red", ""),), surface="wood", style="photo"), rng, side=96)
            for k in (kind, *["cup"] * 8)
        ]
        rows = [np.concatenate([s.image for s in scenes[r : r + 3]], 1) for r in (0, 3, 6)]
        wide.append(np.concatenate(rows, 0))
        truths.append((kind, scenes[0].things[0].box_xyxy))
    for per_side in hits:
        finder = Finder(
            "starter:grounding", questions(policy.pictured), device="cpu", floor=0.3, tiles_per_side=per_side
        )
        for (kind, box), seen in zip(truths, finder.find(wide), strict=True):
            boxes = np.array([one.box_xyxy for one in seen if one.category == kind]).reshape(-1, 4)
            hits[per_side] += bool((iou(boxes, np.array([box])) >= 0.5).any())
    assert hits[3] > hits[1], hits
    assert hits[3] >= 8, hits
