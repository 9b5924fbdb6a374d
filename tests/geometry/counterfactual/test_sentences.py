"""What the sentences say of layers that are unlike each other."""

# ruff: noqa: RUF001  the multiplication sign is what is printed

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import optgeom
from optgeom.geometry.counterfactual.findings import findings
from optgeom.geometry.counterfactual.summary import Row
from optgeom.rules import muon as muon_rule
from optgeom.traces.writing.runfile import read_run, replace_run
from tests.geometry.counterfactual.training import LAYERS


def _row(layer: str | None, kind: str, applied: float, computed: float) -> Row:
    asked: dict[str, Any] = dict.fromkeys(Row.__dataclass_fields__)
    return Row(
        **asked
        | {
            "rule": "muon",
            "layer": layer,
            "kind": kind,
            "layers": 1 if layer else 4,
            "cells": 10,
            "computed": 10,
            "compared": 10,
            "young": 0,
            "own_young": 0,
            "neuron_norm_cv_applied": applied,
            "neuron_norm_cv_computed": computed,
            "why": "",
        }
    )


def _said(kinds: list[Row], layers: list[Row]) -> list[str]:
    found = findings(muon_rule(), "a", {"input": {}}, kinds, layers, "a line")
    return list(found)


def test_a_layer_that_goes_the_other_way_is_named() -> None:
    layers = [
        _row("up.0", "up", 0.4, 0.1),
        _row("up.1", "up", 0.4, 0.2),
        _row("up.2", "up", 0.11, 0.18),
    ]
    said = _said([_row(None, "up", 0.4, 0.2)], layers)
    assert said == [
        "Muon would spread up over its neurons 2 × more evenly (median CV 0.4 → 0.2).",
        "Of up most in up.0 (0.4 → 0.1), least in up.1 (0.4 → 0.2).",
        "Unlike the median of their kind: up.2 1.6 × less evenly (0.11 → 0.18).",
    ]


def test_so_it_is_where_the_median_gets_worse_or_stays() -> None:
    kinds = [_row(None, "up", 0.1, 0.2), _row(None, "down", 0.1, 0.1)]
    layers = [
        _row("up.0", "up", 0.1, 0.2),
        _row("up.1", "up", 0.1, 0.01),
        _row("down.0", "down", 0.1, 0.1),
        *(_row(f"down.{one}", "down", 0.1, 0.2) for one in (1, 2, 3)),
    ]
    assert _said(kinds, layers) == [
        "Muon would spread up over its neurons 2 × less evenly (median CV 0.1 → 0.2).",
        "It would leave the balance of down as it is.",
        "Unlike the median of their kind: up.1 10 × more evenly (0.1 → 0.01), down.1 2 × less "
        "evenly (0.1 → 0.2), down.2 2 × less evenly (0.1 → 0.2) and 1 more layer.",
    ]
    said = _said(kinds[1:], layers[2:])
    assert said[0].startswith("Muon would leave the balance of neurons as it is in a")
    assert "down.1 2 × less evenly" in said[1]


def test_a_sentence_does_not_name_a_hundred_layers() -> None:
    layers = [_row(f"a.{one}", "other", 0.4, 0.1) for one in range(50)]
    layers += [_row(f"b.{one}", "other", 0.4, 0.4) for one in range(50)]
    said = _said(layers, layers)
    assert len(said) == 2
    assert "a.5 4 × (0.4 → 0.1), and 44 more that change less" in said[0]
    assert said[1] == (
        "It would leave the balance of b.0, b.1, b.2, b.3, b.4 and 45 more as it is."
    )


@pytest.fixture
def nameless(muon: optgeom.Trace, tmp_path: Path) -> optgeom.Trace:
    folder = shutil.copytree(muon.folder(), tmp_path / "muon")
    info = read_run(folder)
    layers = tuple(replace(layer, kind="other") for layer in info.layers)
    replace_run(folder, replace(info, layers=layers))
    return optgeom.open_trace(folder)


def test_layers_of_an_unknown_kind_have_no_median_together(nameless: optgeom.Trace) -> None:
    found = optgeom.whatif(nameless, "aurora", steps=slice(60, 64))
    assert found.rows("aurora", "kind") == found.rows("aurora", "layer")
    assert [row.name for row in found.rows("aurora", "kind")] == list(LAYERS)
    (first, *_) = found.findings("aurora")
    assert " other " not in first
    assert any(name in first for name in LAYERS)
    assert all(name in str(found) for name in LAYERS)
