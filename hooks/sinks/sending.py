"""A finished run, sent whole."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from optgeom.hooks.errors import WatchError
from optgeom.hooks.filters import Pattern, listed
from optgeom.hooks.sinks.series import Line, Series, lines_of, points_of
from optgeom.hooks.sinks.sink import Sink, checked, series_of
from optgeom.traces.reading.asked import Steps, in_steps
from optgeom.traces.store import Trace


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent.

    Attributes:
        points: how many numbers.
        names: under which names, sorted.
    """

    points: int
    names: tuple[str, ...]


def send(trace: Trace, sink: Sink, *, steps: Steps = None) -> Sent:
    """Send a trace's numbers, by the same rules as `watch(also=[sink])` while it is written.

    Args:
        trace: opened.
        sink: where to; it is opened and closed here, if there is anything to send.
        steps: one step or several that must be there; a range or slice takes what lies in it.

    Raises:
        WatchError: the sink does not begin, or layers that it wants are not in the trace.
        NotCaptured: a step is not there.
        Exception: whatever the sink raises.
    """
    (sink,) = checked([sink])
    _check_layers(trace, series_of(sink))
    lines = [line for line in lines_of(trace, series_of(sink)) if len(line.steps)]
    if steps is not None and lines:
        there = np.unique(np.concatenate([line.steps for line in lines]))
        wanted = there[in_steps(there, steps, trace.path)]
        lines = [one for line in lines if len((one := _at(line, wanted)).steps)]
    points = points_of(lines)
    if not points:
        return Sent(0, ())
    sink.open(trace.info.run)
    try:
        sink.send(points)
    finally:
        sink.close()
    return Sent(len(points), tuple(sorted(line.name for line in lines)))


def _check_layers(trace: Trace, series: Series) -> None:
    for text in series.layers:
        pattern = Pattern.of(text, "layers")
        if not any(pattern.means(layer.name, [layer.kind]) for layer in trace.layers):
            there = listed([layer.name for layer in trace.layers], text)
            raise WatchError(f"no layer of {trace.path} is {text!r}: there are {there}")


def _at(line: Line, wanted: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Line:
    kept = np.isin(line.steps, wanted)
    return replace(line, steps=line.steps[kept], values=line.values[kept], counts=line.counts[kept])
