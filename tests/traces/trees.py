"""The trace of schema 1 that is kept: it has one of everything."""

from __future__ import annotations

from pathlib import Path

KEPT = Path(__file__).parent / "versions" / "schema1"


def segment(run: Path, table: str, attempt: int = 0) -> Path:
    """A sealed segment of a table."""
    return min((run / table).glob(f"a{attempt:04d}-r00000-*.parquet"))


def stream(run: Path, table: str) -> Path:
    """A write-ahead stream of a table."""
    return min((run / table).glob(".wal-*.arrows"))
