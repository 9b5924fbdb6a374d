"""Text as bytes: the standard library's own source, or any files; batches that depend on the step.

Byte-level ids need no tokenizer and no download. Files are taken in the order of their names, so
the same files give the same ids on every machine; every batch follows from the seed and the step
alone, so a resumed run and any number of ranks see the same data.
"""

from __future__ import annotations

import glob
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optgeom.trainer.errors import ConfigError

STDLIB = "stdlib"
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test"})

Bytes = NDArray[np.uint8]
Tokens = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Byte ids, training and held-out text apart.

    Attributes:
        train: (bytes,) uint8.
        held_out: (bytes,) uint8; no file of ``train`` is in it, unless there are too few files.
        files: How many files were read.
    """

    train: Bytes
    held_out: Bytes
    files: int


def load_corpus(sources: Sequence[str], *, held_out: float, sequence: int) -> Corpus:
    """Read text files as byte ids and keep a share of the files for evaluation.

    Every k-th file is held out, k = 1 / share rounded; with fewer than k files, the last share
    of all bytes is.

    Args:
        sources: ``stdlib``, and paths of files, folders (all ``*.py``, ``*.txt`` and ``*.md``
            inside) or globs.
        held_out: Share of the files, in (0, 0.5].
        sequence: Tokens of one sequence; either part must hold one and its last target.

    Returns:
        The corpus.

    Raises:
        ConfigError: A source that names no readable file, or too little text.
    """
    paths = [path for source in sources for path in _files(source)]
    texts = [_bytes(path) for path in paths]
    every = round(1 / held_out)
    if len(texts) >= every:
        train = _joined([text for i, text in enumerate(texts) if i % every != every - 1])
        kept = _joined(texts[every - 1 :: every])
    else:
        everything = _joined(texts)
        cut = len(everything) - round(len(everything) * held_out)
        train, kept = everything[:cut], everything[cut:]
    need = sequence + 2
    for part, ids in (("training", train), ("held-out", kept)):
        if len(ids) < need:
            raise ConfigError(
                f"data.corpus {', '.join(sources)} has {len(ids)} bytes of {part} text, but "
                f"data.sequence {sequence} needs at least {need}: add text or shorten the sequence"
            )
    return Corpus(train=train, held_out=kept, files=len(paths))


def training_batch(ids: Bytes, *, step: int, seed: int, batch: int, sequence: int) -> Tokens:
    """The sequences of one step over all ranks together, drawn from anywhere in the text.

    Args:
        ids: (bytes,) uint8.
        step: Optimizer step, from 0.
        seed: Of the run.
        batch: Sequences.
        sequence: Tokens of each, T.

    Returns:
        (batch, T + 1) int64: the inputs, and the target of the last one.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, step]))
    return _windows(ids, generator.integers(0, len(ids) - sequence, size=batch), sequence)


def held_out_batch(ids: Bytes, *, index: int, batches: int, batch: int, sequence: int) -> Tokens:
    """One of the batches of an evaluation, evenly spread over the text, the same every time.

    Returns:
        (batch, T + 1) int64.
    """
    starts = np.linspace(0, len(ids) - sequence - 1, batches * batch).astype(np.int64)
    return _windows(ids, starts[index * batch : (index + 1) * batch], sequence)


def _windows(ids: Bytes, starts: NDArray[np.int64], sequence: int) -> Tokens:
    windows: Bytes = ids[starts[:, None] + np.arange(sequence + 1)]
    return windows.astype(np.int64)


def _files(source: str) -> list[Path]:
    if source == STDLIB:
        return standard_library()
    path = Path(source).expanduser()
    if path.is_dir():
        found = [p for end in ("py", "txt", "md") for p in path.rglob(f"*.{end}") if p.is_file()]
    else:
        found = [p for name in glob.glob(str(path), recursive=True) if (p := Path(name)).is_file()]
    if not found:
        raise ConfigError(
            f"data.corpus names no text file: {source!r}; give a file, a folder, a glob or 'stdlib'"
        )
    return sorted(found, key=Path.as_posix)


def standard_library() -> list[Path]:
    """The running Python's own source files by name; tests and installed packages left out.

    What differs between builds of one version (``_sysconfigdata``) is left out too.

    Returns:
        Paths; empty where Python was installed without its source.
    """
    root = Path(sysconfig.get_path("stdlib"))
    names = {path.relative_to(root) for path in root.rglob("*.py")}
    wanted = [
        name
        for name in names
        if not _LEFT_OUT.intersection(name.parts) and not name.name.startswith("_sysconfigdata")
    ]
    return [root / name for name in sorted(wanted, key=Path.as_posix)]


def _bytes(path: Path) -> Bytes:
    try:
        return np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise ConfigError(
            f"data.corpus holds a file that cannot be read: {str(path)!r} ({error.strerror}); "
            "leave it out"
        ) from error


def _joined(texts: Sequence[Bytes]) -> Bytes:
    return np.concatenate(texts) if texts else np.zeros(0, dtype=np.uint8)
