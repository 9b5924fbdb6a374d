"""What sinks want must be something that the watch records: the rest would be sent as silence."""

from __future__ import annotations

from collections.abc import Sequence

from optgeom.hooks.errors import WatchError
from optgeom.hooks.filters import Pattern, listed
from optgeom.hooks.sinks.series import Series
from optgeom.hooks.sinks.sink import Sink, name_of, series_of
from optgeom.traces.info import RunInfo


def check_wanted(sinks: Sequence[Sink], info: RunInfo) -> None:
    """Compare what sinks want with what will be recorded.

    Scalars may have any name, so they are not looked at.

    Args:
        sinks: that are given.
        info: of the run.

    Raises:
        WatchError: a stage that is not recorded, or an entry of layers that names no captured one.
    """
    for sink in sinks:
        series: Series = series_of(sink)
        _check_stages(series, name_of(sink), info.capture["stages"])
        _check_layers(series, name_of(sink), info)


def _check_stages(series: Series, sink: str, recorded: Sequence[str]) -> None:
    for stage in series.stages if series.metrics else ():
        if stage not in recorded:
            there = ", ".join(repr(one) for one in recorded)
            raise WatchError(
                f"{sink} wants the stage {stage!r}, and this watch records {there}: add it to "
                f"watch(stages=...), or give the sink Series(stages=({there},))"
            )


def _check_layers(series: Series, sink: str, info: RunInfo) -> None:
    for text in series.layers:
        pattern = Pattern.of(text, "Series(layers=...)")
        if not any(pattern.means(layer.name, [layer.kind]) for layer in info.layers):
            names = [layer.name for layer in info.layers]
            kinds = list(dict.fromkeys(layer.kind for layer in info.layers))
            raise WatchError(
                f"{sink}: Series(layers=...) has {text!r}, which names no captured matrix: there "
                f"are {listed(names, text)}, of the kinds {listed(kinds, text)}"
            )
