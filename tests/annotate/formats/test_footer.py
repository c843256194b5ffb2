"""What a Parquet footer claims is read as the library reads it, and a damaged one is a reason and not the end of the process."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.annotate.formats.parts.footer import claims
from tilth.errors import InputError

TABLE = pa.table(
    {
        "number": range(1000),
        "list": [[1, 2, 3], []] * 500,
        "text": ["ä", None] * 500,
        "flag": [True, None] * 500,
        "nested": [{"share": 1.5, "names": ["a", "b"]}] * 1000,
    }
)
WAYS: list[dict[str, Any]] = [
    {},
    {"row_group_size": 100},
    {"compression": "zstd", "write_page_index": True, "use_dictionary": False},
    {"version": "1.0", "write_statistics": False},
    {"sorting_columns": [pq.SortingColumn(0)], "data_page_version": "2.0"},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(way) or "plain")
def test_a_footer_claims_what_the_library_says(tmp_path: Path, way: dict[str, Any]) -> None:
    pq.write_table(TABLE, tmp_path / "x.parquet", **way)
    told = pq.read_metadata(tmp_path / "x.parquet")
    groups = [told.row_group(n) for n in range(told.num_row_groups)]
    expected = [(g.total_byte_size, max(g.column(n).num_values for n in range(g.num_columns))) for g in groups]
    assert claims(tmp_path / "x.parquet") == expected


def test_a_damaged_footer_is_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(TABLE, path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[-8:-4], "little")
    reasons = 0
    for seed in range(300):
        rng = random.Random(seed)
        wrong = bytearray(whole)
        for _ in range(3):
            wrong[len(wrong) - 8 - rng.randrange(length)] = rng.choice(
                (0, 0xFF, 0x19, 0x1C, 0x2C, 0xF9, rng.randrange(256))
            )
        path.write_bytes(wrong)
        try:
            claims(path)
        except InputError:
            reasons += 1
    assert reasons > 30
    for data in (b"", b"PAR1", b"\xff" * 40, b"\x19" * 5000 + (5000).to_bytes(4, "little") + b"PAR1"):
        path.write_bytes(data)
        with pytest.raises(InputError, match="footer"):
            claims(path)
