"""Text: the same files give the same bytes, the same step the same batch, on any rank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optgeom.trainer.config import TrainConfig
from optgeom.trainer.corpus import (
    held_out_batch,
    load_corpus,
    standard_library,
    training_batch,
)
from optgeom.trainer.errors import ConfigError
from optgeom.trainer.shards import Joined


def test_the_standard_library_is_there_in_order_without_tests() -> None:
    paths = standard_library()
    names = [path.as_posix() for path in paths]
    assert names == sorted(names)
    assert any(name.endswith("/argparse.py") for name in names)
    assert not any("/site-packages/" in name or "/test/" in name for name in names)


def test_the_standard_library_is_large_enough() -> None:
    corpus = load_corpus(["stdlib"], held_out=0.05, sequence=TrainConfig().data.sequence)
    assert np.asarray(corpus.train).dtype == np.uint8
    assert len(corpus.train) > 5_000_000
    assert 0.01 < len(corpus.held_out) / len(corpus.train) < 0.2


def test_files_are_held_out_whole(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_bytes(bytes([i]) * 50)
    corpus = load_corpus([str(tmp_path)], held_out=0.1, sequence=8)
    assert set(np.asarray(corpus.held_out)) == {9, 19}
    assert set(np.asarray(corpus.train)) == set(range(20)) - {9, 19}
    assert corpus.files == 20


def test_few_files_hold_out_their_last_bytes(text: Path) -> None:
    corpus = load_corpus([str(text)], held_out=0.1, sequence=8)
    joined = np.concatenate((corpus.train, corpus.held_out))
    assert joined.tobytes() == text.read_bytes()
    assert len(corpus.held_out) == round(len(joined) * 0.1)


def test_globs_and_folders_name_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_bytes(b"a" * 100)
    (tmp_path / "deep" / "b.txt").write_bytes(b"b" * 100)
    (tmp_path / "c.bin").write_bytes(b"c" * 100)
    by_folder = load_corpus([str(tmp_path)], held_out=0.5, sequence=8)
    by_glob = load_corpus([f"{tmp_path}/**/*.txt"], held_out=0.5, sequence=8)
    assert (
        np.asarray(by_folder.train).tobytes() == np.asarray(by_glob.train).tobytes() == b"a" * 100
    )
    assert np.asarray(by_folder.held_out).tobytes() == b"b" * 100


@pytest.mark.parametrize(
    ("length", "told"), [(10, "9 bytes of training"), (100, "10 bytes of held-out"), (0, "0 bytes")]
)
def test_a_corpus_too_short_says_how_much_is_needed(tmp_path: Path, length: int, told: str) -> None:
    path = tmp_path / "short.txt"
    path.write_bytes(b"x" * length)
    with pytest.raises(ConfigError, match=f"{told}.*data.sequence 16 needs at least 18"):
        load_corpus([str(path)], held_out=0.1, sequence=16)


def test_a_source_that_names_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"names no file: .*nothing\.txt"):
        load_corpus([str(tmp_path / "nothing.txt")], held_out=0.1, sequence=16)


@given(
    length=st.integers(18, 300),
    step=st.integers(0, 10**9),
    seed=st.integers(0, 10**9),
    batch=st.integers(1, 8),
)
def test_a_batch_is_text_and_follows_from_seed_and_step(
    length: int, step: int, seed: int, batch: int
) -> None:
    text = np.random.default_rng(0).integers(0, 256, length, dtype=np.uint8)
    ids = Joined((text[:7], text[7:7], text[7:]))
    first = training_batch(ids, step=step, seed=seed, batch=batch, sequence=16)
    again = training_batch(ids, step=step, seed=seed, batch=batch, sequence=16)
    assert np.array_equal(first, again)
    assert first.shape == (batch, 17)
    for row in first.astype(np.uint8):
        assert row.tobytes() in text.tobytes()


def test_other_steps_and_seeds_give_other_batches() -> None:
    ids = Joined((np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8),))

    def drawn(step: int, seed: int) -> bytes:
        return training_batch(ids, step=step, seed=seed, batch=4, sequence=16).tobytes()

    assert len({drawn(step, seed) for step in range(5) for seed in range(5)}) == 25


def test_an_evaluation_reaches_from_the_first_byte_to_the_last() -> None:
    ids = Joined((np.arange(200, dtype=np.uint8),))
    batches = [held_out_batch(ids, index=i, batches=3, batch=4, sequence=16) for i in range(3)]
    assert batches[0][0, 0] == 0
    assert batches[-1][-1, -1] == 199
    assert len({row.tobytes() for batch in batches for row in batch}) == 12
