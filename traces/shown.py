"""What a trace, and a folder of them, shows of itself in a notebook.

Asked of run.json, the list of files and the key columns of small tables: no raw matrix is opened,
however large the trace. What cannot be read says so in its place, and the rest is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from optgeom.traces import markup
from optgeom.traces.errors import DamagedTrace
from optgeom.traces.files.place import Entry
from optgeom.traces.info import LayerInfo, RunInfo
from optgeom.traces.printable import size_in_words
from optgeom.traces.reading.asked import stage_rank
from optgeom.traces.schema import CELL_TABLES

if TYPE_CHECKING:
    from optgeom.traces.trace import Trace

RUNS = 40
"""Runs of a folder that have a row of their own; of the others the names are given."""
_KINDS = 24
_SHAPES = 3
_NAMES = 200
_SMALL = tuple(table for table in CELL_TABLES if table != "updates")
_DASH = "\N{EN DASH}"
_TIMES = "\N{MULTIPLICATION SIGN}"


def trace_html(trace: Trace, entries: Mapping[str, Entry]) -> str:
    """One run: its state, layers by kind, captured steps and stages, size and cost.

    Args:
        trace: the run.
        entries: its files, by path.
    """
    about = trace.info
    told = {
        "optimizer": lambda: _optimizers(about),
        "captured": lambda: _reach(trace),
        "stages": lambda: ", ".join(_stages(trace)) or "none",
        "on disk": lambda: _sizes(entries),
        "cost": lambda: _cost(trace, " of the run's time"),
    }
    facts = {name: _said(ask) for name, ask in told.items()}
    if about.computed:
        origin = f"{about.computed.get('what', 'another rule')}, from {about.computed.get('from')}"
        facts = {"computed": origin, **facts}
    return markup.shown(
        trace.name,
        f"{_state(trace)} · {trace.path}",
        markup.facts(facts),
        _layers(trace.layers),
    )


def traces_html(path: str, traces: Mapping[str, Trace], damaged: Mapping[str, DamagedTrace]) -> str:
    """A folder: a row for each run, and why runs are left out.

    Args:
        path: of the folder, as it may be shown.
        traces: by name.
        damaged: why others could not be opened, by name.
    """
    heads = ("run", "optimizer", "layers", "captured", "stages", "size", "cost in time", "state")
    shown, more = list(traces.items())[:RUNS], list(traces)[RUNS:]
    rows = [_row(name, one) for name, one in shown]
    said = [f"{name} is left out: {error}" for name, error in damaged.items()]
    if more:
        said.append(f"and {len(more):,} more: {_short(', '.join(more))}")
    counted = f"{len(traces):,} run{'' if len(traces) == 1 else 's'}"
    table = markup.columns(heads, rows, right=(2, 5, 6), wrap=(1, 4, 7)) if rows else ""
    return markup.shown(path, counted, table, markup.listed(said))


def _row(name: str, trace: Trace) -> tuple[str, ...]:
    return (
        name,
        _said(lambda: _optimizers(trace.info)),
        f"{len(trace.layers):,}",
        _said(lambda: _reach(trace)),
        _said(lambda: ", ".join(_stages(trace)) or "none"),
        size_in_words(trace.size_bytes),
        _said(lambda: _cost(trace)),
        _state(trace),
    )


def _said(ask: Callable[[], str]) -> str:
    """The answer, or why there is none: a picture of a damaged trace is a picture all the same."""
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 -- shown in the place of the answer
        return f"cannot be read: {type(error).__name__}: {_short(str(error))}"


def _optimizers(about: RunInfo) -> str:
    names = dict.fromkeys(one.type.rpartition(".")[2] for one in about.optimizers)
    return _short(", ".join(names)) or "none"


def _reach(trace: Trace) -> str:
    """Of the small tables; raw matrices are never captured without a row of metrics."""
    steps = trace.steps(stage=None, table="metrics")
    if not len(steps):
        return "nothing yet" if trace.is_live else "nothing"
    if len(steps) == 1:
        return f"1 step, {steps[0]:,}"
    return f"{len(steps):,} steps, {steps[0]:,} to {steps[-1]:,}"


def _stages(trace: Trace) -> list[str]:
    found = {stage for table in _SMALL for _, stage in trace.cell_names(table)}
    return sorted(found, key=lambda one: (stage_rank(one), one))


def _sizes(entries: Mapping[str, Entry]) -> str:
    sizes: Counter[str] = Counter()
    for path, entry in entries.items():
        sizes[path.split("/")[0]] += entry.size
    raw = sum(path.startswith("updates/") for path in entries)
    names = {"updates": f"raw matrices in {raw:,} file{'' if raw == 1 else 's'}"}
    parts = ", ".join(
        f"{size_in_words(size)} {names.get(table, table)}"
        for table, size in sizes.most_common()
        if table in (*CELL_TABLES, "scalars", "derived")
    )
    whole = size_in_words(sizes.total())
    return f"{whole} in {len(entries):,} files: {parts}" if parts else whole


def _cost(trace: Trace, of: str = "") -> str:
    """The capture's share of the run, as the recorder measured it last."""
    shares = trace.scalars("capture_share")["value"]
    if not len(shares):
        return "not recorded"
    return f"{100 * shares[-1].as_py():.2g} %{of}"


def _state(trace: Trace) -> str:
    if trace.failed:
        return f"failed: {_short(trace.failed)}"
    if trace.closed:
        return "closed"
    return "live" if trace.is_live else "not closed: it was killed, or is silent"


def _layers(layers: tuple[LayerInfo, ...]) -> str:
    kinds: dict[tuple[str, str], Counter[tuple[int, int]]] = {}
    for layer in layers:
        kinds.setdefault((layer.kind, layer.algorithm or _DASH), Counter())[layer.shape] += 1
    rows = [
        (kind, f"{shapes.total():,}", _shapes(shapes), algorithm)
        for (kind, algorithm), shapes in list(kinds.items())[:_KINDS]
    ]
    if len(kinds) > _KINDS:
        rest = sum(shapes.total() for shapes in list(kinds.values())[_KINDS:])
        rows.append((f"{len(kinds) - _KINDS} other kinds", f"{rest:,}", "", ""))
    if not rows:
        return markup.listed(["no layers"])
    heads = (f"{len(layers):,} layers", "", f"rows {_TIMES} columns", "algorithm")
    told = 4 if any(layer.algorithm for layer in layers) else 3
    return markup.columns(heads[:told], [row[:told] for row in rows], right=(1,))


def _shapes(shapes: Counter[tuple[int, int]]) -> str:
    words = [f"{rows:,} {_TIMES} {cols:,}" for (rows, cols), _ in shapes.most_common(_SHAPES)]
    return ", ".join(words) + (
        f" and {len(shapes) - _SHAPES} other shapes" if len(shapes) > _SHAPES else ""
    )


def _short(words: str) -> str:
    return words if len(words) <= _NAMES else f"{words[:_NAMES]}\N{HORIZONTAL ELLIPSIS}"
