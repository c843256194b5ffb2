"""Files of a set that its reader neither takes nor fails, named by kind, so that nobody wonders where they went."""

from pathlib import Path

from tilth.sources.walk import LeftAlone, suffix_of, walk

# format -> suffixes of the label files that its reader goes through; COCO's is a single file
READ = {
    "yolo": (".txt", ".yaml", ".yml"),
    "voc": (".xml",),
    "labelstudio": (".json",),
    "cvat": (".xml",),
    "imagefolder": ("metadata.jsonl", "metadata.csv", "metadata.parquet"),
    "webdataset": (".tar",),
    "parquet": (".parquet",),
    "csv": (".csv", ".tsv"),
}
INSIDE = ("webdataset", "parquet")  # their images lie in the label files, so one that lies beside them is left alone


def left_alone(path: Path, images: Path | None, format_: str, *label_files: str) -> LeftAlone:
    """Look through the folders of a set for what its reader left alone.

    Args:
        path: Of the set, as it was given: a folder, or a label file, whose folder is looked through for its images alone.
        images: Folder of the images, when they lie apart.
        format_: Of the set.
        label_files: Names of those that were read, when the format has but few.
    """
    left, read = LeftAlone(), READ.get(format_, ())
    for root in {p for p in (path, images) if p and p.is_dir()}:
        found = LeftAlone()
        for folder, name, _ in walk(root, found, skip=(*read, *label_files)):
            if format_ in INSIDE and not images:
                found.note(f"image ({suffix_of(name)})", f"{folder}/{name}".removeprefix("/"))
        left.add(found)
    return left
