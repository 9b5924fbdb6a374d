from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optgeom.trainer import ConfigError, train
from optgeom.trainer.corpus import load_corpus
from optgeom.trainer.shards import Joined, load_shard

IDS = np.arange(0, 4000, 3, dtype=np.uint16) % 1000


def llm_c(path: Path, ids: Any, magic: int = 20240520, dtype: str = "<u2") -> Path:
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, 1, len(ids)
    path.write_bytes(header.tobytes() + np.asarray(ids).astype(dtype).tobytes())
    return path


def headerless(path: Path) -> Path:
    path.write_bytes(IDS.tobytes())
    return path


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


KINDS = {
    "llm.c": lambda p: llm_c(p / "a.bin", IDS),
    "llm.c, 32 bits": lambda p: llm_c(p / "a.bin", IDS, 20240801, "<u4"),
    "headerless": lambda p: headerless(p / "a.bin"),
    "parquet": lambda p: parquet(
        p / "a.parquet", input_ids=[IDS[:700].tolist(), IDS[700:].tolist()]
    ),
    "jsonl": lambda p: jsonl(p / "a.jsonl", {"input_ids": IDS.tolist()}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_read_as_they_are(kind: str, tmp_path: Path) -> None:
    shard = load_shard(KINDS[kind](tmp_path), vocab_size=1000)
    assert not shard.bytes
    assert np.array_equal(shard.ids, IDS)
    assert isinstance(shard.ids, np.memmap) == ("bin" in str(shard.path))


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "txt"])
def test_text_becomes_bytes(kind: str, tmp_path: Path) -> None:
    texts = ["green bottles", "häng"]
    if kind == "jsonl":
        path = jsonl(tmp_path / "a.jsonl", *({"text": text, "url": "x"} for text in texts))
    elif kind == "parquet":
        path = parquet(tmp_path / "a.parquet", text=texts)
    else:
        path = tmp_path / "a.txt"
        path.write_text("green bottles\nhäng\n", encoding="utf-8")
    shard = load_shard(path, vocab_size=256)
    assert shard.bytes
    assert shard.ids.tobytes().decode() == "green bottles\nhäng\n"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.bin", b"123", "no whole number of 16-bit tokens"),
        ("a.jsonl", b'{"body": "x"}\n', "a row without text or input_ids, with body"),
        ("a.jsonl", b'{"text": "x"}\nnonsense\n', "line 2, is no JSON"),
        ("a.jsonl", b"[1]\n", "line 1, is no object"),
        ("a.jsonl", b'{"text": "x"}\n{"input_ids": [1]}\n', "rows of text and rows of ids"),
        ("a.jsonl", b'{"input_ids": [-1, 2]}\n', "no token ids: \\[-1, 2\\]"),
        ("a.jsonl", b'{"input_ids": [[1, 2]]}\n', "no token ids"),
        ("a.jsonl", b'{"input_ids": [1.5]}\n', "no token ids"),
        ("a.jsonl", b'{"input_ids": ["a"]}\n', "no token ids"),
        ("a.parquet", b"PAR1 no", "is no Parquet file"),
    ],
)
def test_what_a_file_is_not_is_told(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        load_shard(tmp_path / name, vocab_size=1000)


def test_a_shard_that_was_cut_is_told(tmp_path: Path) -> None:
    path = llm_c(tmp_path / "a.bin", IDS)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ConfigError, match="its header promises 1334 tokens in 3692: it was cut"):
        load_shard(path, vocab_size=1000)


def test_ids_that_the_model_does_not_know_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds the id 999, and model.vocab_size is 256"):
        load_shard(headerless(tmp_path / "a.bin"), vocab_size=256)


def test_a_parquet_file_without_the_columns_names_those_it_has(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", body=["x"], url=["y"])
    with pytest.raises(ConfigError, match="no column text or input_ids, but body, url"):
        load_shard(path, vocab_size=256)


def test_text_among_token_ids_is_refused(tmp_path: Path) -> None:
    headerless(tmp_path / "a.bin")
    (tmp_path / "b.txt").write_text("x" * 100)
    names = [str(tmp_path / "a.bin"), str(tmp_path / "b.txt")]
    with pytest.raises(ConfigError, match=r"mixes text \(b.txt\) with token ids \(a.bin\)"):
        load_corpus(names, held_out=0.1, sequence=8, vocab_size=1000)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(0, 60),
    st.integers(1, 20),
)
def test_a_window_is_that_of_the_ids_in_one_piece(
    lengths: list[int], start: int, length: int
) -> None:
    everything = np.arange(sum(lengths))
    parts = np.split(everything, np.cumsum(lengths)[:-1])
    joined = Joined(parts)
    assert len(joined) == len(everything)
    assert np.array_equal(joined.window(start, length), everything[start : start + length])


def test_a_run_learns_from_token_shards(tiny, tmp_path: Path) -> None:
    for name in "ab":
        llm_c(tmp_path / f"{name}.bin", IDS)
    result = train(tiny(data__corpus=f"{tmp_path}/*.bin", model__vocab_size=1000))
    assert 6.0 < result.losses[0] < 8.0  # log 1000 = 6.9
