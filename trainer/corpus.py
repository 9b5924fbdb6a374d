"""The corpus: the standard library's own source, or any files; batches that depend on the step.

Text is read as bytes, which need no tokenizer and no download; token shards are read as they are.
Files are taken in the order of their names, so the same files give the same ids on every machine;
every batch follows from the seed and the step alone, so a resumed run and any number of ranks see
the same data.
"""

from __future__ import annotations

import glob
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optgeom.trainer.errors import ConfigError
from optgeom.trainer.shards import Joined, kinds, load_shard

STDLIB = "stdlib"
ENDINGS = (("py", "txt", "md"), ("jsonl", "parquet"), ("bin",))
"""What is taken from a folder: the first of these kinds that it has any files of."""

_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test"})

Tokens = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Token ids, training and held-out text apart.

    Attributes:
        train: To learn from.
        held_out: No file of ``train`` is in it, unless there are too few files.
        files: How many files there are.
    """

    train: Joined
    held_out: Joined
    files: int


def load_corpus(
    sources: Sequence[str], *, held_out: float, sequence: int, vocab_size: int = 256
) -> Corpus:
    """Open files and keep a share of them for evaluation.

    Every k-th file is held out, k = 1 / share rounded; with fewer than k files, the last share
    of all ids is.

    Args:
        sources: ``stdlib``, and paths of files, folders (see ``ENDINGS``) or globs; all text, or
            all token ids.
        held_out: Share of the files, in (0, 0.5].
        sequence: Tokens of one sequence; either part must hold one and its last target.
        vocab_size: Ids that the model knows.

    Returns:
        The corpus.

    Raises:
        ConfigError: A source that names no readable file, text among token ids, or too little.
    """
    paths = [path for source in sources for path in _files(source)]
    shards = [load_shard(path, vocab_size=vocab_size) for path in paths]
    if len(kinds(shards)) > 1:
        text, other = (
            next(one.path.name for one in shards if one.bytes is b) for b in (True, False)
        )
        raise ConfigError(
            f"data.corpus mixes text ({text}) with token ids ({other}): name files of one kind"
        )
    parts = [shard.ids for shard in shards]
    every = round(1 / held_out)
    if len(parts) >= every:
        train = Joined([ids for i, ids in enumerate(parts) if i % every != every - 1])
        kept = Joined(parts[every - 1 :: every])
    else:
        total = sum(map(len, parts))
        train, kept = _cut(parts, total - round(total * held_out))
    need = sequence + 2
    what = "tokens" if "token ids" in kinds(shards) else "bytes"
    for part, ids in (("training", train), ("held-out", kept)):
        if len(ids) < need:
            raise ConfigError(
                f"data.corpus {', '.join(sources)} has {len(ids)} {what} of {part} text, but "
                f"data.sequence {sequence} needs at least {need}: add text or shorten the sequence"
            )
    return Corpus(train=train, held_out=kept, files=len(paths))


def training_batch(ids: Joined, *, step: int, seed: int, batch: int, sequence: int) -> Tokens:
    """The sequences of one step over all ranks together, drawn from anywhere in the text.

    Args:
        ids: To draw from.
        step: Optimizer step, from 0.
        seed: Of the run.
        batch: Sequences.
        sequence: Tokens of each, T.

    Returns:
        (batch, T + 1) int64: the inputs, and the target of the last one.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, step]))
    return _windows(ids, generator.integers(0, len(ids) - sequence, size=batch), sequence)


def held_out_batch(ids: Joined, *, index: int, batches: int, batch: int, sequence: int) -> Tokens:
    """One of the batches of an evaluation, evenly spread over the text, the same every time.

    Returns:
        (batch, T + 1) int64.
    """
    starts = np.linspace(0, len(ids) - sequence - 1, batches * batch).astype(np.int64)
    return _windows(ids, starts[index * batch : (index + 1) * batch], sequence)


def _windows(ids: Joined, starts: NDArray[np.int64], sequence: int) -> Tokens:
    windows = [ids.window(int(start), sequence + 1) for start in starts]
    return np.stack(windows).astype(np.int64)


def _cut(parts: Sequence[NDArray[Any]], at: int) -> tuple[Joined, Joined]:
    """All ids before a place, and all from there on."""
    before, after = [], []
    for ids in parts:
        before.append(ids[: max(0, at)])
        after.append(ids[max(0, at) :])
        at -= len(ids)
    return Joined(before), Joined(after)


def _files(source: str) -> list[Path]:
    if source == STDLIB:
        return standard_library()
    path = Path(source).expanduser()
    if path.is_dir():
        found = next(filter(None, (_inside(path, endings) for endings in ENDINGS)), [])
    else:
        found = [p for name in glob.glob(str(path), recursive=True) if (p := Path(name)).is_file()]
    if not found:
        raise ConfigError(
            f"data.corpus names no file: {source!r}; give a file, a folder, a glob or 'stdlib'"
        )
    return sorted(found, key=Path.as_posix)


def _inside(folder: Path, endings: Sequence[str]) -> list[Path]:
    return [p for end in endings for p in folder.rglob(f"*.{end}") if p.is_file()]


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
