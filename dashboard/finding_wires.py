"""Wiring of the findings: asked for once the page is drawn, and again where they grew old."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dash
from dash import ClientsideFunction, Input, Output

from optgeom.dashboard import finding_section
from optgeom.dashboard.finding_words import head, of_run
from optgeom.dashboard.findings import Findings
from optgeom.dashboard.sending import digest
from optgeom.dashboard.view import parse

if TYPE_CHECKING:
    from optgeom.dashboard.data import Runs
    from optgeom.traces.store import Trace

Stored = dict[str, Any] | None


def compared(runs: Runs, address: str) -> list[Trace]:
    """Return the runs under comparison, A first, as the browser was told them.

    They are looked up by name and nothing is read, so that a damaged run stops nothing here.
    """
    return runs.some(parse(address).runs)


def told_of(runs: Runs, found: Findings, sees: Stored) -> tuple[list[Any], dict[str, Any]]:
    """Look at the runs under comparison, and return what the header says of them.

    Args:
        runs: the runs.
        found: what is known of them.
        sees: the view's address ``q`` and the ``token`` of the runs.

    Returns:
        The header's link, and for the page: ``of``, which changes when anything said does, and
        ``again``, the seconds after which to ask again (None: not before something changes).

    Raises:
        PreventUpdate: there is no view yet.
    """
    if not sees:
        raise dash.exceptions.PreventUpdate
    traces = compared(runs, sees["q"])
    again = found.look(traces, str(sees["token"]))
    looked = found.known(traces)
    said = [of_run(trace, one) for trace, one in zip(traces, looked, strict=True)]
    known = {"q": sees["q"], "of": digest([runs.slots(), said]), "again": again}
    return finding_section.count(head(looked)), known


def section_of(runs: Runs, found: Findings, sees: Stored) -> list[Any]:
    """Return the section of the page Runs from what is known already.

    Raises:
        PreventUpdate: nothing is known yet.
    """
    if not sees:
        raise dash.exceptions.PreventUpdate
    traces = compared(runs, sees["q"])
    looked = found.known(traces)
    told = [of_run(trace, one) for trace, one in zip(traces, looked, strict=True)]
    return finding_section.body(traces, told, runs.slots())


def register_findings(app: dash.Dash, runs: Runs, found: Findings) -> None:
    """Wire the count, the section, and the script that asks for them."""
    app.callback(
        Output("findings-count", "children"),
        Output("findings-known", "data"),
        Input("sees-findings", "data"),
        prevent_initial_call=True,
    )(lambda sees: told_of(runs, found, sees))
    app.callback(
        Output("findings-body", "children"),
        Input("sees-runs-findings", "data"),
    )(lambda sees: section_of(runs, found, sees))

    def run(name: str, *wires: Any) -> None:
        function = ClientsideFunction(namespace="findings", function_name=name)
        app.clientside_callback(function, *wires)

    url = Input("url", "pathname")
    run("follow", Output("findings-count", "href"), Input("view", "data"), url)
    run("known", Output("sees-runs-findings", "data"), Input("findings-known", "data"), url)
