"""From what was read of many matrices to rows of the norms clock, all at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optgeom.geometry.balance import column_balance, neuron_balance
from optgeom.geometry.catalogue import columns
from optgeom.geometry.partial import LEADING, Partial
from optgeom.geometry.sketch import sketch_cosines

Value = float | int | str | None
Array = NDArray[np.float64]

_COLUMNS = dict.fromkeys(columns("metrics"))


@dataclass(frozen=True, slots=True, eq=False)
class NormsRow:
    """What the norms clock records of one cell.

    Attributes:
        values: Every column of `columns("metrics")`, "status": ok, zero, non_finite, lost, or
            what the context said, and "operand_dtype".
        neuron_norms: (m,) float32 row norms, NaN where the matrix is not finite.
        sketch: (4096,) on the matrix's device, of a finite, non-zero update; else None. Keep it for
            the next capture's `Context.previous_sketch`.
    """

    values: dict[str, Value]
    neuron_norms: NDArray[np.float32]
    sketch: Tensor | None


def finish_norms(partials: Sequence[Partial]) -> list[NormsRow]:
    """Rows of the norms clock, of matrices that `norms_pass` has read.

    The second half of `measure_norms`: one transfer to the host per device, then summaries of all
    rows together. Looks at no matrix.

    Args:
        partials: Of any matrices, shapes and devices.

    Returns:
        A row for each, in their order.
    """
    if not partials:
        return []
    numbers, cosines = _fetched(partials)
    with np.errstate(all="ignore"):
        table, sizes = _measured(partials, numbers)
        table["cosine_previous"] = cosines
        usable = np.isfinite(sizes) & (sizes > 0.0)
        lists = {
            name: np.where(usable & np.isfinite(values), values, np.nan).tolist()
            for name, values in table.items()
        }
        stored = [
            found[LEADING : LEADING + one.shape[0]].astype(np.float32)
            for one, found in zip(partials, numbers, strict=True)
        ]
    rows = []
    for i, (one, size) in enumerate(zip(partials, sizes.tolist(), strict=True)):
        values: dict[str, Value] = dict(_COLUMNS)
        # A NaN is what is not equal to itself.
        values.update({name: x if (x := found[i]) == x else None for name, found in lists.items()})
        values.update(one.facts)
        if values["cosine_previous"] is not None:
            values["steps_since_previous"] = one.steps_since_previous
        values["status"] = _status(one, size)
        values["operand_dtype"] = one.operand_dtype
        if not math.isfinite(size):
            stored[i].fill(np.nan)
        rows.append(NormsRow(values, stored[i], one.sketch if usable[i] else None))
    return rows


def _fetched(partials: Sequence[Partial]) -> tuple[list[Array], Array]:
    """Numbers of every matrix, and cosines of the sketches, NaN where there are no two."""
    numbers: list[Array] = [np.empty(0)] * len(partials)
    cosines = np.full(len(partials), np.nan)
    devices: dict[torch.device, list[int]] = {}
    for i, one in enumerate(partials):
        devices.setdefault(one.numbers.device, []).append(i)
    for members in devices.values():
        parts = [partials[i].numbers for i in members]
        now, before, pairs = [], [], []
        for i in members:
            sketch, previous = partials[i].sketch, partials[i].previous_sketch
            if sketch is not None and previous is not None:
                now.append(sketch)
                before.append(previous)
                pairs.append(i)
        if pairs:
            parts.append(sketch_cosines(now, before))
        flat = torch.cat(parts).cpu().numpy()
        ends = np.cumsum([part.numel() for part in parts]).tolist()
        for i, start, end in zip(members, [0, *ends], ends, strict=False):
            numbers[i] = flat[start:end]
        if pairs:
            cosines[pairs] = flat[ends[-2] :]
    return numbers, cosines


def _measured(
    partials: Sequence[Partial], numbers: Sequence[Array]
) -> tuple[dict[str, Array], Array]:
    """Metrics of all matrices by name, (k,) each, and the Frobenius norms, (k,)."""
    count = len(partials)
    table: dict[str, Array] = {}
    sizes = np.full(count, np.nan)
    for rows, members in _grouped([one.shape[0] for one in partials]).items():
        norms = np.stack([numbers[i][LEADING : LEADING + rows] for i in members])
        sizes[members] = _lengths(norms)
        _fill(table, neuron_balance(norms), members, count)
    whole = [
        len(found) == LEADING + sum(one.shape) for one, found in zip(partials, numbers, strict=True)
    ]
    for cols, everyone in _grouped([one.shape[1] for one in partials]).items():
        members = [i for i in everyone if whole[i]]
        if not members:
            continue
        norms = np.stack([numbers[i][-cols:] for i in members])
        _fill(table, column_balance(norms), members, count)
    along_weight, weight, along_gradient = np.array([found[:LEADING] for found in numbers]).T
    updates = np.array([one.stage == "update" for one in partials])
    lr = np.array([np.nan if one.lr is None else abs(one.lr) for one in partials])
    table["frobenius_norm"] = sizes
    rms = sizes / np.sqrt([one.shape[0] * one.shape[1] for one in partials])
    table["update_rms"] = np.where(updates, rms, np.nan)
    table["update_to_weight"] = lr * sizes / weight
    table["radial_fraction"] = np.clip(along_weight / sizes, -1.0, 1.0)
    table["cosine_gradient"] = np.clip(along_gradient / sizes, -1.0, 1.0)
    return table, sizes


def _grouped(lengths: Sequence[int]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        groups.setdefault(length, []).append(i)
    return groups


def _fill(
    table: dict[str, Array], found: dict[str, Array], members: Sequence[int], count: int
) -> None:
    for name, values in found.items():
        table.setdefault(name, np.full(count, np.nan))[members] = values


def _lengths(norms: Array) -> Array:
    """Length of each row: squares of norms near float64's ends would leave its range."""
    top = norms.max(-1)
    unit = norms / np.where(top > 0.0, top, 1.0)[:, None]
    lengths: Array = np.sqrt(np.square(unit).sum(-1)) * top
    return lengths


def _status(one: Partial, size: float) -> str:
    if not math.isfinite(size):
        return "non_finite"
    if one.status != "ok":
        return one.status
    if size == 0.0:
        return "zero"
    return "lost" if one.lost else "ok"
