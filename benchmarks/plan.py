"""Machines, hours, bytes and money for a corpus of any size, from measured rates.

    python benchmarks/plan.py --images 100000000 1000000000
    python benchmarks/plan.py --images 1e8 --embed 900 --cores-of-embed 1 --price 2.5    # one GPU: its rate and its price an hour

The rates are arguments; their defaults are those that the commands named in `docs/plan-a-billion.md` printed on two cores of a
virtual machine. Embedding and hashing are taken to be linear in machines, as no image asks about another; `benchmarks/cluster.py`
measures what Ray takes of that.
"""

import argparse

from figures import Figures, add_option

STORE_EXTRA = 61  # bytes an image beside its vectors: key, stamp, where the line ends


def hours(images: float, per_s: float, machines: float) -> float:
    return images / per_s / 3600 / machines


def size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=float, nargs="+", default=[1e8, 1e9])
    parser.add_argument("--vectors", type=int, nargs="+", default=[1, 32], help="an image has so many (BLIP-2: 32)")
    parser.add_argument("--width", type=int, default=256, help="numbers of a vector")
    parser.add_argument("--embed", type=float, default=25.6, help="images/s of one machine (benchmarks/embed.py)")
    parser.add_argument("--cores-of-embed", type=float, default=2, help="processors, or GPUs, that this rate took")
    parser.add_argument("--machines", type=float, default=64, help="processors, or GPUs, at work")
    parser.add_argument("--ray", type=float, default=0.84, help="share that Ray leaves (benchmarks/cluster.py)")
    parser.add_argument("--index-bytes", type=float, default=43.1, help="a vector (benchmarks/search.py)")
    parser.add_argument("--index", type=float, default=23_800, help="vectors/s put into an index by one thread")
    parser.add_argument("--bytes-read", type=float, default=100_000, help="of an image file")
    parser.add_argument("--price", type=float, default=0.05, help="of one processor, or GPU, for an hour")
    add_option(parser)
    args = parser.parse_args()
    figures = Figures("plan")
    head = ("images", "vectors", "read", "embed, h", "price", "vectors take", "index takes", "index, h of one thread")
    print(" | ".join(head))
    for images in args.images:
        for vectors in args.vectors:
            time = hours(images, args.embed / args.cores_of_embed * args.ray, args.machines)
            price = time * args.machines * args.price
            store = images * (vectors * args.width * 2 + STORE_EXTRA)
            index, indexing = images * vectors * args.index_bytes, hours(images * vectors, args.index, 1)
            cells = (
                f"{images:,.0f}",
                f"{vectors}",
                size(images * args.bytes_read),
                f"{time:,.1f}",
                f"{price:,.0f}",
                size(store),
                size(index),
                f"{indexing:,.1f}",
            )
            print(" | ".join(cells))
            key = f"images_{images:.0f}.vectors_{vectors}"
            figures.add(f"{key}.read_tb", images * args.bytes_read / 1e12, "TB")
            figures.add(f"{key}.embed_h", time, "h")
            figures.add(f"{key}.price", price, "")
            figures.add(f"{key}.vectors_gb", store / 1e9, "GB")
            figures.add(f"{key}.index_gb", index / 1e9, "GB")
            figures.add(f"{key}.index_h", indexing, "h")
    figures.write(args.results)


if __name__ == "__main__":
    main()
