"""Header and controls: the same on every page, and all of it in the address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc
from dash import dcc, html

from optgeom.dashboard.parts import computed_badge, mark
from optgeom.figures.identity import computed_from, is_computed
from optgeom.figures.names import by_kind, layer_place, layer_titles, run_label, run_short, shorten

if TYPE_CHECKING:
    from optgeom.traces.info import LayerInfo
    from optgeom.traces.store import Trace

PAGES = {"/": "Balance", "/spectra": "Spectra", "/layers": "Layers", "/runs": "Runs"}
"""Path and title of each page, in the tabs' order."""


PICKED = 10
"""Characters of a run's name that a closed picker has room for."""


def header(live: str, findings: Any) -> html.Header:
    """Return the name, the tabs, the live state, the findings and the theme switch, 48 px."""
    tabs = [
        dcc.Link(title, href=path, id={"tab": path}, className="tab")
        for path, title in PAGES.items()
    ]
    return html.Header(
        [
            html.A("Skip to the figures", href="#main", className="skip"),
            html.Span("optgeom", className="name"),
            html.Nav(tabs, **{"aria-label": "Pages"}),
            html.Span(className="grow"),
            html.Span(live, id="live", className="quiet live"),
            findings,
            html.Button(
                html.Span(className="glyph glyph-theme"),
                id="theme",
                className="icon",
                type="button",
                title="Light or dark",
                **{"aria-label": "Switch between light and dark"},
            ),
        ],
        className="header",
    )


def bar() -> html.Div:
    """Return the sticky controls, 52 px."""
    return html.Div(
        [
            html.Button(
                html.Span(className="glyph glyph-rail"),
                id="rail-button",
                className="icon rail-button",
                type="button",
                title="Layers",
                **{"aria-label": "Show the list of layers"},
            ),
            _select("a", "Run A", clearable=False),
            html.Button(
                html.Span(className="glyph glyph-swap"),
                id="swap",
                className="icon",
                type="button",
                title="Swap A and B",
                **{"aria-label": "Swap run A and run B"},
            ),
            _select("b", "Run B", clearable=True, placeholder="one run alone"),
            _more(),
            dmc.Select(
                id="layer",
                className="pick pick-layer",
                searchable=True,
                allowDeselect=False,
                size="xs",
                maxDropdownHeight=360,
                comboboxProps={"width": 340, "position": "bottom-start", "shadow": "none"},
                nothingFoundMessage="no such layer",
                renderOption={"function": "fullName"},
                filter={"function": "byFullName"},
                **{"aria-label": "Layer"},
            ),
            dmc.Select(
                id="stage",
                className="pick pick-stage",
                allowDeselect=False,
                size="xs",
                comboboxProps={"width": 150, "position": "bottom-start", "shadow": "none"},
                **{"aria-label": "Stage"},
            ),
            html.Button(
                html.Span(id="play-glyph", className="glyph glyph-play"),
                id="play",
                className="icon",
                type="button",
                title="Play",
            ),
            dmc.Slider(
                id="slider",
                className="slider",
                min=0,
                max=1,
                step=1,
                value=0,
                size="xs",
                thumbSize=14,
                updatemode="mouseup",
                color="gray",
                thumbLabel="Step",
                label={"function": "stepLabel", "options": {"steps": []}},
            ),
            html.Span(id="step-text", className="step-text"),
            html.Button(
                id="span-text",
                className="text-button span-text",
                type="button",
                title="Show all steps again",
            ),
        ],
        className="bar",
        id="bar",
    )


def _select(side: str, label: str, **settings: Any) -> dmc.Select:
    return dmc.Select(
        id=f"run-{side}",
        className="pick pick-run",
        allowDeselect=False,
        size="xs",
        searchable=False,
        renderOption={"function": "fullName"},
        comboboxProps={"width": 260, "position": "bottom-start", "shadow": "none"},
        **settings,
        **{"aria-label": label},
    )


def _more() -> dmc.Popover:
    button = html.Button("+ run", id="more-button", className="text-button", type="button")
    group = dmc.CheckboxGroup([], id="more", value=[], size="xs")
    return dmc.Popover(
        [
            dmc.PopoverTarget(button),
            dmc.PopoverDropdown([html.P("Draw further runs", className="quiet"), group]),
        ],
        position="bottom-start",
        shadow="none",
        keepMounted=True,
    )


def run_options(traces: Sequence[Trace]) -> list[dict[str, str]]:
    """Return the options of a run picker."""
    return [
        {"value": one.name, "label": _picked(one), "full": run_label(one.name)}
        | ({"badge": "computed"} if is_computed(one) else {})
        for one in traces
    ]


def _picked(trace: Trace) -> str:
    """Return a run's name as a closed picker has room for: of a computed one the rule."""
    label = run_label(trace.name)
    if is_computed(trace) and len(label) > PICKED:
        return shorten(f"\N{HORIZONTAL ELLIPSIS}+{label.rpartition('+')[2]}", PICKED)
    return run_short(trace.name, limit=PICKED)


def run_mark(run: str | None, slots: Mapping[str, int], *, side: str) -> html.Span | None:
    """Return the dot of a picked run, or nothing for an empty picker."""
    if run is None or run not in slots:
        return None
    return mark(slots[run], "a" if side == "a" else "b")


def badge(trace: Trace) -> list[html.Span]:
    """Return the badge of a computed run; nothing for a trained one."""
    source = computed_from(trace)
    return [computed_badge(run_label(source))] if source else []


def more_options(traces: Sequence[Trace], slots: Mapping[str, int]) -> list[dmc.Checkbox]:
    """Return a box per run that is neither A nor B."""
    return [
        dmc.Checkbox(
            label=html.Span(
                [mark(slots[trace.name], "more"), " ", run_label(trace.name), *badge(trace)]
            ),
            value=trace.name,
            size="xs",
        )
        for trace in traces
    ]


def layer_options(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """Return the options of the layer picker, grouped by kind, then by depth."""
    layers = {layer.name: layer for trace in traces for layer in trace.layers}
    titles = layer_titles(layers.values())
    return [
        {
            "group": kind,
            "items": [_layer_option(one, titles[one.name]) for one in group],
        }
        for kind, group in by_kind(layers.values()).items()
    ]


def _layer_option(layer: LayerInfo, title: str) -> dict[str, str]:
    return {"value": layer.name, "label": layer_place(layer, limit=22), "full": title}


def stage_options(traces: Sequence[Trace]) -> list[dict[str, str]]:
    """Return the stages that at least one of the runs holds, the update first."""
    held = dict.fromkeys(stage for trace in traces for stage in trace.stages) or {"update": None}
    names = sorted(held, key=lambda stage: stage != "update")
    return [{"value": stage, "label": stage.replace("_", " ")} for stage in names]
