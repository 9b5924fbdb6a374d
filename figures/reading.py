"""What a figure asks of a trace: which traces, which captured step, which column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from optgeom.figures.identity import run_slots
from optgeom.figures.names import run_label
from optgeom.traces.errors import OptgeomError
from optgeom.traces.info import LayerInfo

if TYPE_CHECKING:
    from optgeom.traces.store import Trace

Source: TypeAlias = "Trace | Mapping[str, Trace] | Iterable[Trace]"


class Missing(NamedTuple):
    """Something that a figure would draw and a trace does not hold.

    Attributes:
        what: a sentence that says what is absent.
        code: the line of code that captures it, or an empty string.
        run: the run that lacks it, or an empty string.
        brief: the same in a few words, for a note that names the run itself.
    """

    what: str
    code: str
    run: str = ""
    brief: str = ""


def as_traces(source: Source) -> tuple[Trace, ...]:
    """Return the traces of one trace, a folder of traces, or an iterable of traces.

    Raises:
        OptgeomError: if there is none, or a path was passed.
    """
    if isinstance(source, (str, PurePath)):
        raise OptgeomError(
            f"figures take an open trace, got {str(source)!r}: pass open_trace({str(source)!r})"
        )
    if isinstance(source, Mapping):
        found = tuple(source.values())
    elif isinstance(source, Iterable):
        found = tuple(source)
    else:
        found = (source,)
    if not found:
        raise OptgeomError("a figure needs at least one trace; got none: pass open_trace(path)")
    return found


def one_trace(source: Source) -> Trace:
    """Return the only trace of a source, for figures that draw one run.

    Raises:
        OptgeomError: if there are several, or none.
    """
    found = as_traces(source)
    if len(found) > 1:
        names = ", ".join(trace.name for trace in found)
        raise OptgeomError(
            f"this figure draws one run; got {len(found)} ({names}): "
            f'pass one of them, traces["{found[0].name}"]'
        )
    return found[0]


def slot_map(traces: Iterable[Trace], slots: Mapping[str, int] | None) -> Mapping[str, int]:
    """Return the colour slots that were given, or those of these traces alone."""
    return run_slots(traces) if slots is None else slots


def layer_in(trace: Trace, name: str) -> LayerInfo | None:
    """Return the layer called ``name``, or None where the trace has no such layer."""
    return next((layer for layer in trace.layers if layer.name == name), None)


def find_layer(traces: Iterable[Trace], name: str) -> LayerInfo:
    """Return the layer from the first trace that has it.

    Raises:
        OptgeomError: if no trace has it (the first trace's own error, with close matches).
    """
    everything = tuple(traces)
    for trace in everything:
        layer = layer_in(trace, name)
        if layer is not None:
            return layer
    return everything[0].layer(name)


def captured_steps(trace: Trace, layer: str, *, stage: str, table: str) -> tuple[int, ...]:
    """Return the ascending steps at which a trace holds this; empty where it holds none."""
    if layer_in(trace, layer) is None:
        return ()
    return tuple(int(step) for step in trace.steps(layer, stage=stage, table=table))


def at_or_before(steps: Iterable[int], step: int | None) -> int | None:
    """Return the nearest captured step that is not later; the last one for ``step=None``.

    >>> at_or_before((0, 10, 20), 19), at_or_before((10, 20), 5), at_or_before((0, 7), None)
    (10, None, 7)
    """
    earlier = [one for one in steps if step is None or one <= step]
    return max(earlier, default=None)


def first_capture(trace: Trace, step: int) -> Missing:
    """Say that a run holds nothing at or before the step looked at."""
    brief = f"first capture at step {step:,}"
    return Missing(f"{run_label(trace.name)} has its {brief}.", "", trace.name, brief)


def missing_table(trace: Trace, *, title: str, stage: str, table: str) -> Missing:
    """Say what one trace lacks for one layer and how the next run captures it."""
    what = {
        "neurons": "neuron norms",
        "spectra": "singular values",
        "updates": "raw matrices",
        "metrics": "metrics",
    }[table]
    text = f"{run_label(trace.name)} holds no {what} of the stage {stage} for {title}."
    if stage not in trace.stages:
        stages = (*trace.stages, stage)
        return Missing(text, f"optgeom.watch(model, optimizer, out, stages={stages!r})")
    clock = {"spectra": "spectra_every=50", "updates": "updates_every=1000"}.get(table, "every=50")
    return Missing(text, f"optgeom.watch(model, optimizer, out, {clock})")
