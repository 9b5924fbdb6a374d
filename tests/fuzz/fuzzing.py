"""What the fuzzers share: the seeds, and what may come of reading."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["optgeom"]):
    # by their names: an import that nothing uses here would be tidied away, and no fuzzer learns
    # anything from code that was imported before
    for _name in ("errors", "info", "wal", "checked", "trace"):
        importlib.import_module(f"optgeom.traces.{_name}")

from optgeom.traces.errors import TraceError

_SHARE = 0.7
KEPT = Path(__file__).parents[1] / "traces" / "versions" / "schema1"


def fuzz(
    read: Callable[[bytes], object],
    seeds: dict[str, bytes],
    change: Callable[[random.Random, bytes], bytes] | None = None,
) -> None:
    """Read what the fuzzer makes of the seeds; anything but a TraceError ends it.

    Args:
        read: the reader.
        seeds: by name; written to the folder that the command line names first.
        change: another way to change an input than the fuzzer's own, taken every other time.
    """

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if change is not None and dice.random() < _SHARE:
            try:
                return change(dice, data)[:most]
            except Exception:  # noqa: BLE001  an input that cannot be taken apart
                return bytes(atheris.Mutate(data, most))
        return bytes(atheris.Mutate(data, most))

    @atheris.instrument_func
    def one(data: bytes) -> None:
        try:
            read(data)
        except TraceError as error:
            text = str(error)
            if "\n" in text or "malloc" in text:
                raise RuntimeError(text) from error

    corpus = Path(next(given for given in sys.argv[1:] if not given.startswith("-")))
    corpus.mkdir(parents=True, exist_ok=True)
    for name, data in seeds.items():
        (corpus / name).write_bytes(data)
    atheris.Setup(sys.argv, one, custom_mutator=mutate if change else None)
    atheris.Fuzz()
