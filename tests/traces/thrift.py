"""Thrift's compact protocol, both ways: what footers and page headers are taken apart with here."""

from __future__ import annotations

import struct
from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)

Value = Any
Tree = dict[int, tuple[int, Value]]
"""Field number -> type and value; a list's value is its type of items, and the items."""


def read_struct(data: bytes, at: int = 0) -> tuple[Tree, int]:
    fields: Tree = {}
    number = 0
    while True:
        byte = data[at]
        at += 1
        if not byte:
            return fields, at
        kind, step = byte & 15, byte >> 4
        if step:
            number += step
        else:
            number, at = _zigzag(data, at)
        fields[number], at = _read(data, at, kind)


def write_struct(fields: Tree) -> bytes:
    out, before = bytearray(), 0
    for number, (kind, value) in fields.items():
        if 0 < number - before < 16:
            out.append(number - before << 4 | kind)
        else:
            out += bytes([kind]) + _as_zigzag(number)
        out += _write(kind, value)
        before = number
    return bytes(out) + b"\0"


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read(data: bytes, at: int, kind: int) -> tuple[tuple[int, Value], int]:
    value: Value = None
    if kind == BYTE:
        value, at = data[at], at + 1
    elif kind in (I16, I32, I64):
        value, at = _zigzag(data, at)
    elif kind == DOUBLE:
        value, at = struct.unpack_from("<d", data, at)[0], at + 8
    elif kind == BINARY:
        size, at = _number(data, at)
        value, at = data[at : at + size], at + size
    elif kind == STRUCT:
        value, at = read_struct(data, at)
    elif kind in (LIST, SET):
        size, inner, at = data[at] >> 4, data[at] & 15, at + 1
        if size == 15:
            size, at = _number(data, at)
        items = []
        for _ in range(size):
            if inner in (TRUE, FALSE):
                items.append(data[at])
                at += 1
            else:
                (_, item), at = _read(data, at, inner)
                items.append(item)
        value = (inner, items)
    elif kind not in (TRUE, FALSE):
        raise ValueError(kind)
    return (kind, value), at


def _write(kind: int, value: Value) -> bytes:
    if kind in (TRUE, FALSE):
        return b""
    if kind == BYTE:
        return bytes([value])
    if kind in (I16, I32, I64):
        return _as_zigzag(value)
    if kind == DOUBLE:
        return struct.pack("<d", value)
    if kind == BINARY:
        return varint(len(value)) + value
    if kind == STRUCT:
        return write_struct(value)
    inner, items = value
    size = len(items)
    head = bytes([size << 4 | inner]) if size < 15 else bytes([0xF0 | inner]) + varint(size)
    if inner in (TRUE, FALSE):
        return head + bytes(items)
    return head + b"".join(_write(inner, one) for one in items)


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
        shift += 7


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _number(data, at)
    return value >> 1 ^ -(value & 1), at


def _as_zigzag(value: int) -> bytes:
    return varint((value << 1 ^ value >> 63) & (1 << 64) - 1)
