"""The headers of Parquet's pages, read before Arrow takes memory for what they claim.

A page says how many bytes it takes uncompressed and how many values it holds, in a header of its
own that nothing in the footer confirms. Arrow believes it: some bytes that say two gigabytes are
given two gigabytes. So the headers of what is asked are walked first.
"""

from __future__ import annotations

from dataclasses import dataclass

from optgeom.traces.errors import DamagedTrace
from optgeom.traces.limits import MAX_PAGE_BYTES, MAX_WORDS, refuse

_DATA, _DICTIONARY, _DATA_2 = 0, 2, 3
# where the number of values and the encoding stand in the header of each kind
_HEADERS = {_DATA: (5, 2), _DICTIONARY: (7, 2), _DATA_2: (8, 4)}
# plain, plain dictionary, RLE, RLE dictionary, byte stream split: what grows no further than its
# page says. Others (delta byte arrays) repeat a prefix in every value
_ENCODINGS = frozenset({0, 2, 3, 8, 9})
_BY_DICTIONARY = frozenset({2, 8})
_I32, _STRUCT, _BINARY = 5, 12, 8
_SHORT = frozenset({1, 2})
_INTEGERS = frozenset({4, 5, 6})
_DEPTH = 4

Fields = dict[int, "int | Fields | None"]


@dataclass(frozen=True, slots=True)
class Pages:
    """What the pages of one column chunk come to.

    Attributes:
        plain: bytes of the data pages, uncompressed.
        dictionary: bytes of its dictionary, uncompressed; 0 where it has none.
        indirect: values that stand in the data pages as numbers of entries of the dictionary.
    """

    plain: int
    dictionary: int
    indirect: int


def walk_pages(data: memoryview, values: int, name: str) -> Pages:
    """Read the headers of the pages of one column chunk.

    Args:
        data: the chunk's bytes.
        values: how many it holds by the footer.
        name: how to call the file in errors.

    Raises:
        DamagedTrace: a header cannot be read, or claims what no page of a trace has.
    """
    at = seen = plain = dictionary = indirect = 0
    while seen < values:
        try:
            header, at = _struct(data, at, _DEPTH)
            kind, size, stored = (_integer(header, field) for field in (1, 2, 3))
            field, encoded = _HEADERS[kind]
            inner = header[field]
            if not isinstance(inner, dict):
                raise ValueError("no header of a page")
            count, encoding = _integer(inner, 1), _integer(inner, encoded)
        except (LookupError, ValueError) as error:
            raise DamagedTrace(f"{name} is damaged: the header of a page is none") from error
        refuse(name, "bytes in a page", size, MAX_PAGE_BYTES)
        if encoding not in _ENCODINGS:
            raise DamagedTrace(f"{name} has pages of an encoding that no trace has ({encoding})")
        if kind == _DICTIONARY:
            refuse(name, "words in a dictionary", count, MAX_WORDS)
        elif not 0 <= count <= values - seen:
            raise DamagedTrace(f"{name} is damaged: more values in its pages than {values:,}")
        if not 0 <= stored <= len(data) - at:
            raise DamagedTrace(
                f"{name} is damaged: a page claims {stored:,} bytes of {len(data) - at:,}"
            )
        at += stored
        if kind == _DICTIONARY:
            dictionary += size
            continue
        seen += count
        plain += size
        indirect += count if encoding in _BY_DICTIONARY else 0
        if not count and at >= len(data):
            break
    if seen != values:
        raise DamagedTrace(f"{name} is damaged: {seen:,} values of {values:,} in its pages")
    return Pages(plain, dictionary, indirect)


def _integer(fields: Fields, number: int) -> int:
    value = fields[number]
    if not isinstance(value, int):
        raise ValueError("no integer")
    return value


def _struct(data: memoryview, at: int, depth: int) -> tuple[Fields, int]:
    """One struct of Thrift's compact protocol: its integers and structs by number, and its end.

    Numbers have to ascend, as every writer has them: of a field that came twice another reader
    might take the other.
    """
    fields: Fields = {}
    number = 0
    while True:
        byte = data[at]
        at += 1
        if byte == 0:
            return fields, at
        kind, step = byte & 15, byte >> 4
        if not step:
            raise ValueError("fields do not ascend")
        number += step
        if kind in _SHORT:
            fields[number] = None
        elif kind in _INTEGERS:
            value = shift = 0
            while True:
                byte = data[at]
                at += 1
                value |= (byte & 127) << shift
                if byte < 128:
                    break
                shift += 7
                if shift > 63:
                    raise ValueError("no number is so long")
            # of another width it is another field to Arrow, which skips it
            fields[number] = (value >> 1) ^ -(value & 1) if kind == _I32 else None
        elif kind == _BINARY:
            length, at = _length(data, at)
            at += length
        elif kind == _STRUCT and depth:
            fields[number], at = _struct(data, at, depth - 1)
        else:
            raise ValueError(f"no page has a field of type {kind}")


def _length(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 28:
            raise ValueError("no text is so long")
