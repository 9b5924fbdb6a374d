"""What an offline run of Weights & Biases holds.

The package has no reader of its own for the file: it is LevelDB's log format (blocks of 32 KiB, a
record's header is checksum, length, kind) after seven bytes, and each record one of wandb's
messages, which wandb's own classes parse.
"""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

_BLOCK = 1 << 15


def records(path: Path) -> list[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    found, whole, at = [], b"", 7
    while at + 7 <= len(data):
        if _BLOCK - at % _BLOCK < 7:  # no header fits into the rest of a block
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(whole))
            whole = b""
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    """The rows of the one run below a folder; wandb's own process may still be writing it."""
    (path,) = folder.glob("**/*.wandb")
    until = time.monotonic() + 20
    found = records(path)
    while "exit" not in [one.WhichOneof("record_type") for one in found]:
        assert time.monotonic() < until, "the run was not finished"
        time.sleep(0.05)
        found = records(path)
    return [
        {
            one.key or "/".join(one.nested_key): json.loads(one.value_json)
            for one in row.history.item
        }
        for row in found
        if row.WhichOneof("record_type") == "history"
    ]
