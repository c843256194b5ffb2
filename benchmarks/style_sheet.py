"""A picture of what `style.py` made: examples of the style, labelled images, and these drawn anew, with the boxes that went along.

python benchmarks/style.py --seeds 2-4
python benchmarks/style_sheet.py --seed 2 --out docs/new-style.jpg
"""

import argparse
from pathlib import Path

from PIL import Image as PilImage
from PIL import ImageDraw

from tilth.data.dataset import Dataset
from tilth.samples import Sample

SIDE, COLUMNS = 128, 10


def tile(sample: Sample, *, boxes: bool) -> PilImage.Image:
    """Draw one image, with its labels' boxes where they are wanted."""
    image = PilImage.fromarray(sample.pixels())
    scale = SIDE / image.width
    image = image.resize((SIDE, round(image.height * scale)), PilImage.Resampling.BICUBIC)
    for label in sample.truth.labels if boxes else ():
        if label.box_xyxy:
            ImageDraw.Draw(image).rectangle([value * scale for value in label.box_xyxy], outline=(255, 210, 60))
    return image


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/style"), help="those of style.py (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=2, help="whose run (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/new-style.jpg"), help="default: %(default)s")
    asked = parser.parse_args()
    dataset = Dataset(asked.runs / f"seed-{asked.seed}" / "recipe" / "dataset")
    samples = sorted(dataset.samples("made or state = 'unlabelled'"), key=lambda sample: sample.id)
    examples = [sample for sample in samples if not sample.made][:COLUMNS]
    made = [sample for sample in samples if sample.made and sample.truth.labels][: 2 * COLUMNS]
    parents = dataset.read([str(sample.origin["parents"][0]) for sample in made])  # type: ignore[index]
    rows = [(examples, False)]
    for start in range(0, len(made), COLUMNS):
        rows += [(some[start : start + COLUMNS], True) for some in (parents, made)]
    sheet = PilImage.new("RGB", (COLUMNS * SIDE, len(rows) * SIDE), "white")
    for y, (some, boxes) in enumerate(rows):
        for x, sample in enumerate(some):
            sheet.paste(tile(sample, boxes=boxes), (x * SIDE, y * SIDE))
    sheet.save(asked.out, quality=88)


if __name__ == "__main__":
    main()
