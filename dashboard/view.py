"""What is being looked at: one value object, written in the URL and read back from it.

Everything a reader chose stands in the address, so a link opens the same picture elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Literal, cast, get_args
from urllib.parse import parse_qs, quote, urlencode

import numpy as np

from optgeom.figures.arrays import NO_INTS, Ints
from optgeom.figures.identity import algorithm, is_computed
from optgeom.figures.reading import layer_in
from optgeom.geometry.catalogue import METRICS

if TYPE_CHECKING:
    from optgeom.traces.store import Trace

Against = Literal["step", "tokens", "time"]
Scheme = Literal["light", "dark"]

STAGES = ("update", "momentum", "gradient", "ns_input", "orthogonalized", "applied", "weight")
METRIC = "neuron_norm_cv"
_PREFERRED = (("muon", "normuon"), ("adamw", "muon"), ("adamw", "normuon"))


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A reader's choices; None where the page decides.

    Attributes:
        a: the run compared with (the sentence's "than Muon").
        b: the run the page is about; None for one run alone.
        more: further runs, drawn but not in the sentence.
        layer: a layer's name.
        stage: the stage of every metric on the page.
        step: a captured step; None follows the last one.
        theme: light, dark, or None for what the system prefers.
        loss_by: the abscissa of the loss.
        alone: True where the reader emptied run B.
        metric: the column that the page Layers shows.
        neuron: the selected neuron, marked in every figure of neurons.
        span: first and last step that figures over steps show; None for all.
        table: True where the table of neurons is open.
    """

    a: str | None = None
    b: str | None = None
    more: tuple[str, ...] = ()
    layer: str | None = None
    stage: str = "update"
    step: int | None = None
    theme: Scheme | None = None
    loss_by: Against = "step"
    alone: bool = False
    metric: str = METRIC
    neuron: int | None = None
    span: tuple[int, int] | None = None
    table: bool = False

    @property
    def runs(self) -> tuple[str, ...]:
        """The shown runs, A first, without repetition."""
        return tuple(dict.fromkeys(run for run in (self.a, self.b, *self.more) if run))


def parse(search: str | None) -> View:
    """Read a query string; anything unknown or malformed counts as not chosen.

    >>> parse("?a=muon&b=normuon&step=390").step
    390
    >>> parse("?step=soon&theme=pink") == View()
    True
    """
    raw = parse_qs((search or "").removeprefix("?"), keep_blank_values=True)
    first = {key: values[0] for key, values in raw.items()}
    theme = first.get("theme")
    against = first.get("by", "step")
    metric = first.get("metric", METRIC)
    return View(
        a=first.get("a") or None,
        b=first.get("b") or None,
        more=tuple(run for run in raw.get("more", ()) if run),
        layer=first.get("layer") or None,
        stage=first.get("stage") if first.get("stage") in STAGES else "update",  # type: ignore[arg-type]
        step=_count(first.get("step")),
        theme=cast(Scheme, theme) if theme in get_args(Scheme) else None,
        loss_by=cast(Against, against) if against in get_args(Against) else "step",
        alone=first.get("b") == "",
        metric=metric if metric in METRICS else METRIC,
        neuron=_count(first.get("neuron")),
        span=_span(first.get("span", "")),
        table=first.get("table") == "1",
    )


def _count(text: str | None) -> int | None:
    known = text is not None and text.isascii() and text.isdigit() and len(text) < 16
    return int(text) if known and text is not None else None


def _span(text: str) -> tuple[int, int] | None:
    low, _, high = text.partition("-")
    first, last = _count(low), _count(high)
    return (first, last) if first is not None and last is not None and first < last else None


def search(view: View) -> str:
    """Write a view as a query string; what the page decides by itself is left out.

    >>> search(View(a="muon", b="normuon", step=390))
    '?a=muon&b=normuon&step=390'
    """
    pairs: list[tuple[str, str]] = []
    if view.a:
        pairs.append(("a", view.a))
    if view.b or view.alone:
        pairs.append(("b", view.b or ""))
    pairs += [("more", run) for run in view.more]
    if view.layer:
        pairs.append(("layer", view.layer))
    if view.stage != "update":
        pairs.append(("stage", view.stage))
    if view.step is not None:
        pairs.append(("step", str(view.step)))
    if view.theme:
        pairs.append(("theme", view.theme))
    if view.loss_by != "step":
        pairs.append(("by", view.loss_by))
    if view.metric != METRIC:
        pairs.append(("metric", view.metric))
    if view.neuron is not None:
        pairs.append(("neuron", str(view.neuron)))
    if view.span is not None:
        pairs.append(("span", f"{view.span[0]}-{view.span[1]}"))
    if view.table:
        pairs.append(("table", "1"))
    return f"?{urlencode(pairs, quote_via=quote)}" if pairs else ""


def resolve(view: View, traces: Sequence[Trace]) -> View:
    """Fill what was not chosen, and drop what these runs do not have.

    Runs: Muon against NorMuon where both are there, else the first two. Layer: the MLP
    up-projection halfway up, where the paper looks. Stage: the asked one, or the first captured
    one where no shown run has it. The step stays None while it follows the
    last one.
    """
    if not traces:
        return replace(view, a=None, b=None, more=(), layer=None)
    names = [trace.name for trace in traces]
    known = {trace.name: trace for trace in traces}
    a, b = _pair(view, traces)
    further = [run for run in dict.fromkeys(view.more) if run in names and run not in (a, b)]
    # Further runs stand beside a pair: with A alone, the first of them would be taken for B.
    more = tuple(further) if b is not None else ()
    shown = [known[run] for run in (a, b) if run]
    layer = view.layer
    if layer is None or not any(layer_in(trace, layer) for trace in shown):
        layer = _first_layer(shown)
    stage = _stage(view.stage, [*shown, *(known[run] for run in more)])
    return replace(
        view, a=a, b=b, more=more, layer=layer, stage=stage, alone=view.alone and b is None
    )


def _stage(asked: str, traces: Sequence[Trace]) -> str:
    """Return the asked stage, or the first captured one where none of the traces has it."""
    held = [stage for trace in traces for stage in trace.stages if stage in STAGES]
    return held[0] if held and asked not in held else asked


def _pair(view: View, traces: Sequence[Trace]) -> tuple[str | None, str | None]:
    names = [trace.name for trace in traces]
    a = view.a if view.a in names else None
    b = view.b if view.b in names and view.b != a else None
    if a is None and b is None:
        first: dict[str, str] = {}
        for trace in sorted(traces, key=is_computed):
            first.setdefault(algorithm(trace), trace.name)
        a, b = next(
            ((first[x], first[y]) for x, y in _PREFERRED if x in first and y in first),
            (names[0], names[1] if len(names) > 1 else None),
        )
    elif a is None:
        # One run alone is always run A, so that the page has no empty half.
        a, b = (next((n for n in names if n != b), b), b) if not view.alone else (b, None)
    elif b is None and not view.alone:
        b = next((name for name in names if name != a), None)
    if view.alone:
        b = None
    return a, None if b == a else b


def _first_layer(traces: Sequence[Trace]) -> str | None:
    layers = {layer.name: layer for trace in traces for layer in trace.layers}
    ups = sorted(
        (layer for layer in layers.values() if layer.kind == "mlp.up" and layer.block is not None),
        key=lambda layer: layer.block or 0,
    )
    if ups:
        return ups[len(ups) // 2].name
    inside = [layer for layer in layers.values() if layer.block is not None]
    return next((layer.name for layer in inside or layers.values()), None)


def stops(traces: Iterable[Trace], layer: str | None, stage: str) -> tuple[int, ...]:
    """Return the steps at which all of these runs hold numbers of the layer.

    Neuron norms and spectra may have been captured less often: their panels then show the nearest
    earlier capture and name it. Where the runs share no step: every step at which any of them
    does; the figures then use each run's nearest earlier capture and say so.
    """
    if layer is None:
        return ()
    each = [_held(trace, layer, stage) for trace in traces]
    each = [one for one in each if one.size]
    if not each:
        return ()
    shared = reduce(np.intersect1d, each)
    return tuple((shared if shared.size else reduce(np.union1d, each)).tolist())


def _held(trace: Trace, layer: str, stage: str) -> Ints:
    if stage not in trace.stages or layer_in(trace, layer) is None:
        return NO_INTS
    steps = trace.steps(layer, stage=stage, table="metrics")
    return steps if len(steps) else trace.steps(layer, stage=stage, table="neurons")


def nearest_stop(steps: Sequence[int], step: int | None) -> int | None:
    """Return the stop at or before a step, the first stop if it is earlier than all.

    >>> nearest_stop((0, 10, 20), 15), nearest_stop((10, 20), 3), nearest_stop((0, 5), None)
    (10, 10, 5)
    """
    if not steps:
        return None
    earlier = [one for one in steps if step is None or one <= step]
    return max(earlier, default=min(steps))
