from __future__ import annotations

import json
from dataclasses import replace

import pytest

from optgeom.traces.errors import DamagedTrace, SchemaTooNew, TraceError
from optgeom.traces.info import LayerInfo, RunInfo, dump, parse
from optgeom.traces.schema import FIXED, KEYS, TABLES, TEXT, check_columns, table_schema


def test_round_trip(info: RunInfo) -> None:
    assert parse(dump(info), "run.json") == replace(info, capture=dict(info.capture))


def test_a_path_in_the_config_is_kept_as_text(info: RunInfo, tmp_path) -> None:
    assert parse(dump(replace(info, config={"data": tmp_path})), "run.json").config == {
        "data": str(tmp_path)
    }


def test_entries_of_a_later_minor_version_are_left_out(info: RunInfo) -> None:
    content = json.loads(dump(info))
    content["weather"] = "fine"
    content["layers"][0]["colour"] = "blue"
    del content["digest"]
    assert parse(json.dumps(content).encode(), "run.json").layers == info.layers


def test_newer_schema(info: RunInfo) -> None:
    with pytest.raises(SchemaTooNew, match=r"runs/a/run\.json has schema 99.*newer optgeom"):
        parse(dump(replace(info, schema=99)), "runs/a/run.json")


@pytest.mark.parametrize("cut", [0, 1, 50, -2])
def test_truncated(info: RunInfo, cut: int) -> None:
    with pytest.raises(DamagedTrace, match=r"^run\.json is damaged"):
        parse(dump(info)[:cut], "run.json")


def test_every_changed_bit_of_a_value_is_found(info: RunInfo) -> None:
    data = bytearray(dump(info))
    at = bytes(data).index(b"mlp.down")
    data[at] ^= 1
    with pytest.raises(DamagedTrace, match="remove its"):
        parse(bytes(data), "run.json")


def test_edited_by_hand_without_its_digest(info: RunInfo) -> None:
    content = json.loads(dump(info))
    del content["digest"]
    content["run"] = "mine"
    assert parse(json.dumps(content).encode(), "run.json").run == "mine"


def test_lacks_a_layers_shape(info: RunInfo) -> None:
    content = json.loads(dump(info))
    del content["digest"], content["layers"][0]["shape"]
    with pytest.raises(DamagedTrace, match="shape"):
        parse(json.dumps(content).encode(), "run.json")


def test_a_trace_of_an_earlier_version_lacks_what_pieces_are_cut_from(info: RunInfo) -> None:
    content = json.loads(dump(info))
    del content["digest"]
    for layer in content["layers"]:
        del layer["parameter"], layer["stored"]
    read = parse(json.dumps(content).encode(), "run.json").layers[0]
    assert (read.parameter, read.stored) == (None, ())


def test_label() -> None:
    layer = LayerInfo("h.3.up.weight", "mlp.up", 3, (512, 128), "float32", "o", 0)
    assert layer.label == "block 3 · mlp.up · 512 × 128"  # noqa: RUF001
    assert replace(layer, block=None).label.startswith("h.3.up.weight · ")


@pytest.mark.parametrize("table", TABLES)
def test_schemas_begin_with_their_keys(table: str) -> None:
    names = table_schema(table, {}).names
    keys = [name for name in KEYS if name in names]
    assert names[: len(keys)] == keys
    assert {"run", "attempt", "step"} <= set(keys)


def test_no_column_stands_in_two_tables() -> None:
    assert not set(FIXED["metrics"]) & set(FIXED["spectra"])
    with pytest.raises(TraceError, match=r"\['x'\] stand in both"):
        check_columns({"metrics": {"x": "float64"}, "spectra": {"x": "float64"}})


def test_declared_columns() -> None:
    schema = table_schema("metrics", {"metrics": {"a": "float64", "status": "string"}})
    assert str(schema.field("a").type) == "double"
    assert schema.field("status").type == TEXT
    with pytest.raises(TraceError, match=r"metrics\.a has type 'complex'"):
        table_schema("metrics", {"metrics": {"a": "complex"}})
    with pytest.raises(TraceError, match=r"metrics\.lr is double"):
        table_schema("metrics", {"metrics": {"lr": "int64"}})
    with pytest.raises(TraceError, match="neurons"):
        check_columns({"neurons": {"a": "float64"}})
