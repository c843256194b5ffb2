"""Small labelled datasets that the tests export and read back."""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from noise import noise_image

from tilth.claims import Claim
from tilth.data.dataset import Dataset
from tilth.engine.work import Work
from tilth.events import Events
from tilth.geometry import Box
from tilth.policy import Policy
from tilth.samples import NewSample

SIDE = 32
Labels = list[tuple[str, Box]]
SCENES: list[Labels] = [
    [("knife", (1.0, 2.0, 11.0, 12.0)), ("pill", (0.0, 0.0, 32.0, 32.0))],
    [],
    [("dice", (5.0, 6.0, 7.0, 9.0))],
]


@contextlib.contextmanager
def opened(folder: Path, policy: Policy) -> Iterator[Work]:
    events = Events(folder / "events.jsonl", io.StringIO())
    try:
        yield Work(name="made", dataset=Dataset(folder / "dataset"), policy=policy, folder=folder, events=events)
    finally:
        events.close()


def fill(work: Work, images: list[Labels], splits: list[str] | None = None) -> None:
    samples = []
    for number, labels in enumerate(images):
        say = partial(Claim, source="human:ann", asked=work.policy.names)
        claims = tuple(say(category=c, box_xyxy=b) for c, b in labels)
        columns = {"split": splits[number]} if splits else {}
        empty = (say(says="empty"),)
        samples.append(
            NewSample(
                data=noise_image(number, SIDE), origin={"licence": "CC0-1.0"}, claims=claims or empty, columns=columns
            )
        )
    work.add("images", samples)


def labels_of(dataset: Dataset) -> dict[str, list[tuple[str | None, Box | None]]]:
    return {s.id: [(c.category, c.box_xyxy) for c in s.truth.labels] for s in dataset.samples(images=False)}


def assert_same(found: Mapping[str, Sequence[Any]], expected: Mapping[str, Sequence[Any]], off_by: float) -> None:
    """Hold the labels that were found in each image to those expected: their categories, order and places."""
    np.testing.assert_equal(
        {i: [c for c, _ in found[i]] for i in found}, {i: [c for c, _ in expected[i]] for i in expected}
    )
    for id_, rows in expected.items():
        np.testing.assert_allclose([b for _, b in found[id_]], [b for _, b in rows], rtol=0, atol=off_by, err_msg=id_)


def silent(text: str) -> None:
    pass
