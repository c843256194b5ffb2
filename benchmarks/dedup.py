"""Near-duplicates among photographs and six kinds of copies of them, beside imagededup; and all pairs of a million hashes.

    python benchmarks/dedup.py --photos /data/photos --imagededup /envs/imagededup/bin/python
    python benchmarks/dedup.py --hashes 1000000
    python benchmarks/dedup.py --hashes 50000 --imagededup /envs/imagededup/bin/python

Each photograph is joined by six copies: re-encoded (JPEG quality 30), resized (0.4), cropped (10 to 20 % of each side off),
bordered (5 to 12 %), mirrored and overlaid (a box with writing over 7 %). Recall is the share of copies that end up with
their original; precision is the share of all joined pairs that come of one photograph. Photographs that are within 60 bits
(PDQ) of an earlier one, frames of one scene, are left out. One thread, one run.
"""

import argparse
import io
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from figures import Figures, add_option
from PIL import Image as Pillow

KINDS = ("re-encoded", "resized", "cropped", "bordered", "mirrored", "overlaid")

IMAGEDEDUP = """
import json, sys, time
from imagededup.methods import PHash, DHash, WHash, AHash
out = {}
for method in (PHash, DHash, WHash, AHash):
    began = time.time()
    made = method(verbose=False)
    codes = made.encode_images(sys.argv[1], num_enc_workers=0)
    found = made.find_duplicates(encoding_map=codes, max_distance_threshold=10, num_dist_workers=0)
    out[method.__name__] = {"seconds": time.time() - began, "pairs": [[a, b] for a in found for b in found[a]]}
print(json.dumps(out))
"""


SEARCH = """
import json, sys, time
import numpy as np
from imagededup.methods import PHash
rng = np.random.default_rng(0)
codes = {str(n): bytes(rng.integers(0, 256, 8, np.uint8)).hex() for n in range(int(sys.argv[1]))}
began = time.time()
PHash(verbose=False).find_duplicates(encoding_map=codes, max_distance_threshold=10, num_dist_workers=0)
print(json.dumps(time.time() - began))
"""


def copies(image: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    height, width = image.shape[:2]
    data = io.BytesIO()
    Pillow.fromarray(image).save(data, "JPEG", quality=30)
    left = rng.uniform(0.8, 0.9)
    h, w = int(height * left), int(width * left)
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    edge = int(rng.uniform(0.05, 0.12) * min(height, width))
    written = image.copy()
    cv2.rectangle(
        written, (int(0.6 * width), int(0.75 * height)), (int(0.97 * width), int(0.95 * height)), (250,) * 3, -1
    )
    place = (int(0.62 * width), int(0.87 * height))
    cv2.putText(written, "SALE 50%", place, cv2.FONT_HERSHEY_SIMPLEX, width / 500, (200, 0, 0), 3)
    return {
        "re-encoded": np.array(Pillow.open(data)),
        "resized": cv2.resize(image, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA),
        "cropped": image[y : y + h, x : x + w],
        "bordered": cv2.copyMakeBorder(image, *[edge] * 4, cv2.BORDER_CONSTANT, value=[int(rng.choice([0, 255]))] * 3),
        "mirrored": image[:, ::-1],
        "overlaid": written,
    }


def make(photos: Path, folder: Path, limit: int) -> int:
    from tilth.images import decode, fit_within
    from tilth.mining.copies.hash import pdq, to_bytes
    from tilth.sources.walk import images_in

    number, seen = 0, np.empty((0, 32), np.uint8)
    for path in images_in(photos):
        image = np.array(fit_within(decode(path.read_bytes()), 1024))
        bits = to_bytes([pdq(image)[0]])
        if number == limit:
            break
        if len(seen) and np.unpackbits(seen ^ bits, axis=1).sum(1).min() <= 60:
            continue
        seen = np.concatenate([seen, bits])
        for kind, copy in {"original": image, **copies(image, np.random.default_rng(number))}.items():
            Pillow.fromarray(copy).save(folder / f"{number:05d}_{kind}.jpg", quality=85)
        number += 1
    return number


def hashing(folder: Path, figures: Figures) -> None:
    """Tell how long one hash takes, ours and by the authors' code, and how far the two are apart."""
    import pdqhash

    from tilth.images import decode
    from tilth.mining.copies.hash import pdq, to_bytes

    images = [np.ascontiguousarray(decode(path.read_bytes())) for path in sorted(folder.glob("*_original.jpg"))[:100]]
    began = time.perf_counter()
    theirs = [pdqhash.compute(image)[0] for image in images]
    middle = time.perf_counter()
    ours = [pdq(image)[0] for image in images]
    spent = middle - began, time.perf_counter() - middle
    apart = [int((np.unpackbits(to_bytes([text])[0]) != bits).sum()) for text, bits in zip(ours, theirs, strict=True)]
    told = f"{1000 * spent[1] / len(images):.2f} ms, by pdqhash {1000 * spent[0] / len(images):.2f} ms"
    print(f"one PDQ hash of decoded pixels: {told}, {spent[0] / spent[1]:.1f} times; at most {max(apart)} bits apart")
    figures.add("pdq.ms", 1000 * spent[1] / len(images), "ms", n=len(images))
    figures.add("pdqhash.ms", 1000 * spent[0] / len(images), "ms", n=len(images), rival="pdqhash")
    figures.add("pdq.times_pdqhash", spent[0] / spent[1], "times", rival="pdqhash")
    figures.add("pdq.bits_apart_at_most", max(apart), "bits", rival="pdqhash")


def report(
    name: str, key: str, pairs: set[tuple[str, str]], photos: int, seconds: float, images: int, figures: Figures
) -> None:
    """Tell what a method found; `pairs` are of file names."""
    found: Counter[str] = Counter()
    right = 0
    for a, b in pairs:
        same = a.partition("_")[0] == b.partition("_")[0]
        right += same
        kinds = {a.partition("_")[2].removesuffix(".jpg"), b.partition("_")[2].removesuffix(".jpg")}
        if same and "original" in kinds:
            found[(kinds - {"original"}).pop()] += 1
    recall = {kind: found[kind] / photos for kind in KINDS}
    mean, precision = float(np.mean(list(recall.values()))), right / max(1, len(pairs))
    rival = name if name.startswith("imagededup") else ""
    figures.add(f"{key}.images_per_s", images / seconds, "images/s", n=images, rival=rival)
    figures.add(f"{key}.recall", mean, "share", n=6 * photos, rival=rival)
    figures.add(f"{key}.precision", precision, "share", n=max(1, len(pairs)), rival=rival)
    for kind in KINDS:
        figures.add(f"{key}.recall.{kind.replace('-', '_')}", recall[kind], "share", n=photos, rival=rival)
    print(
        f"{name:24} {images / seconds:9.1f} {mean:7.3f} {precision:10.4f}  "
        + "  ".join(f"{recall[kind]:10.3f}" for kind in KINDS),
        flush=True,
    )


def ours(folder: Path, work_folder: Path, *, edits: bool) -> tuple[set[tuple[str, str]], float]:
    from tilth.annotate.exchange.importing import Import
    from tilth.data.dataset import Dataset
    from tilth.engine.work import Work
    from tilth.events import Events
    from tilth.mining.copies.dedup import Dedup
    from tilth.mining.copies.hash import Hash
    from tilth.policy import load_policy

    policy = load_policy(Path(__file__).parents[1] / "configs" / "policies" / "starter.yaml")
    dataset = Dataset(work_folder / f"dataset-{edits}")
    make_work = lambda name: Work(  # noqa: E731
        name=name, dataset=dataset, policy=policy, folder=work_folder / f"{name}-{edits}", events=Events()
    )
    Import(path=folder).run(make_work("import"))
    began = time.monotonic()
    Hash().run(make_work("hash"))
    Dedup(edits=edits, min_quality=0).run(make_work("dedup"))
    seconds = time.monotonic() - began
    groups: dict[str, list[str]] = {}
    for sample in dataset.samples(images=False, dropped=True):
        if "dedup.group" in sample.columns:
            name = Path(str(sample.origin["source"])).name
            groups.setdefault(str(sample.columns["dedup.group"]), []).append(name)
    return {pair for names in groups.values() for pair in combinations(sorted(names), 2)}, seconds


def quiet(line: list[str]) -> str:
    """Run a command on one thread and return its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout.strip().splitlines()[-1]


def million(count: int, imagededup: str | None, results: Path) -> None:
    from tilth.mining.copies.near import close_pairs

    figures = Figures("dedup_hashes", seeds=[0])
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (count, 32), np.uint8)
    copies_of = rng.choice(count // 2, count // 100, replace=False)
    for row, of in enumerate(copies_of):  # every hundredth is a copy, 1 to 31 bits away
        flipped = np.zeros(256, np.uint8)
        flipped[rng.choice(256, int(rng.integers(1, 32)), replace=False)] = 1
        hashes[count - 1 - row] = hashes[of] ^ np.packbits(flipped)
    began, worked = time.monotonic(), time.process_time()
    found = {(min(a, b), max(a, b)) for a, b in close_pairs(hashes, 31)}
    seconds, worked = time.monotonic() - began, time.process_time() - worked
    true = {(int(of), count - 1 - row) for row, of in enumerate(copies_of)}
    told = f"{len(true & found)} of {len(true)} copies found, {len(found - true)} others"
    print(
        f"{count:,} hashes, all pairs within 31 bits: {seconds:.1f} s ({worked:.1f} s of processors); {told}",
        flush=True,
    )
    figures.add("hashes", count, "hashes")
    figures.add("all_pairs_s", seconds, "s")
    figures.add("all_pairs_processor_s", worked, "s")
    figures.add("copies", len(true), "copies")
    figures.add("copies_found", len(true & found), "copies")
    figures.add("others_found", len(found - true), "pairs")
    if imagededup:
        theirs = float(quiet([imagededup, "-c", SEARCH, str(count)]))
        print(
            f"imagededup PHash, {count:,} hashes of 64 bits within 10: {theirs:.1f} s, {theirs / seconds:.1f} times ours"
        )
        figures.add("imagededup.all_pairs_s", theirs, "s", rival="imagededup PHash")
        figures.add("times_imagededup", theirs / seconds, "times", rival="imagededup PHash")
    figures.write(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--imagededup", help="Python of an environment with imagededup")
    parser.add_argument("--limit", type=int, default=10_000, help="photographs at most")
    parser.add_argument("--hashes", type=int, default=0)
    add_option(parser)
    args = parser.parse_args()
    if args.hashes:
        million(args.hashes, args.imagededup, args.results)
    if not args.photos:
        return
    cv2.setNumThreads(1)
    figures = Figures("dedup")
    with tempfile.TemporaryDirectory(prefix="dedup-") as name:
        folder = Path(name) / "images"
        folder.mkdir()
        photos = make(args.photos, folder, args.limit)
        images = 7 * photos
        figures.add("photos", photos, "photographs")
        hashing(folder, figures)
        print(f"{photos} photographs, {images} images; recall by kind of copy")
        print(f"{'':24} {'images/s':>9} {'recall':>7} {'precision':>10}  " + "  ".join(f"{kind:>10}" for kind in KINDS))
        for edits in (False, True):
            pairs, seconds = ours(folder, Path(name), edits=edits)
            key = "hashes_and_edits" if edits else "hashes"
            report(f"tilth, edits: {str(edits).lower()}", key, pairs, photos, seconds, images, figures)
        if args.imagededup:
            told_all = json.loads(quiet([args.imagededup, "-c", IMAGEDEDUP, str(folder)]))
            for method, told in told_all.items():
                pairs = {(min(a, b), max(a, b)) for a, b in told["pairs"]}
                key = f"imagededup_{method.lower()}"
                report(f"imagededup {method}", key, pairs, photos, told["seconds"], images, figures)
    figures.write(args.results)


if __name__ == "__main__":
    main()
