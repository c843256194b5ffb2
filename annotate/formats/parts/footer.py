"""What the footer of a Parquet file claims of its row groups, read without the library: asked for a damaged column, it ends the process.

Source: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md, and parquet.thrift of Apache Parquet
"""

from pathlib import Path
from typing import Any

from tilth.errors import InputError

MAX_FOOTER = 64 * 2**20  # bytes
MAX_DEPTH = 32  # of structs and lists in others
TAIL = 8  # bytes: the length of the footer, and a mark
GROUPS, COLUMNS, GROUP_BYTES, ABOUT, VALUES = 4, 1, 2, 3, 5  # numbers of fields
TRUE, FALSE, BYTE, INTEGERS, DOUBLE, BINARY, LISTS, MAP, STRUCT = 1, 2, 3, (4, 5, 6), 7, 8, (9, 10), 11, 12


def claims(path: Path) -> list[tuple[int, int]]:
    """Return for each row group the bytes that it says it has unpacked, and the most values that it says a column has.

    Raises:
        InputError: There is no footer, or it is damaged.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - TAIL))
            length = int.from_bytes(stream.read(4), "little")
            if length > min(MAX_FOOTER, size):
                raise InputError(f"a footer of {length} bytes in a file of {size}")
            stream.seek(size - TAIL - length)
            groups = _Compact(stream.read(length)).struct(0).get(GROUPS, [])
        return [
            (int(group.get(GROUP_BYTES, 0)), max(map(_values, group.get(COLUMNS, [])), default=0)) for group in groups
        ]
    except (IndexError, ValueError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"a damaged footer: {error}") from error


def _values(column: Any) -> int:
    return int(column.get(ABOUT, {}).get(VALUES, 0))


class _Compact:
    """Reads Thrift's compact protocol into numbers, bytes, lists, and mappings from the numbers of fields."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("a number without an end")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _bytes(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._data):
            raise ValueError("it ends too early")
        return self._data[self._at - count : self._at]

    def _value(self, kind: int, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        if kind in INTEGERS:
            return self._zigzag()
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind == STRUCT:
            return self.struct(depth + 1)
        if kind in LISTS:
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            return [self._item(head & 15, depth) for _ in range(min(count, len(self._data)))]
        if kind == MAP:
            count = self._varint()
            kinds = self._byte() if count else 0
            return [
                (self._item(kinds >> 4, depth), self._item(kinds & 15, depth))
                for _ in range(min(count, len(self._data)))
            ]
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind == BYTE:
            return self._byte()
        if kind == DOUBLE:
            return self._bytes(8)
        raise ValueError(f"no kind of value is {kind}")

    def _item(self, kind: int, depth: int) -> Any:
        # in a list a truth is a byte, while of a field its kind says it
        return self._byte() == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth + 1)

    def struct(self, depth: int) -> dict[int, Any]:
        """Read a struct up to its end."""
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            found[number] = self._value(head & 15, depth)
        return found
