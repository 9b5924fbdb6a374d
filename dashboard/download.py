"""The data of a figure as CSV: what the view shows, in full precision, names as recorded."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import flask
import pyarrow.csv

from optgeom.dashboard.state import resolved
from optgeom.dashboard.view import parse
from optgeom.traces.errors import OptgeomError

if TYPE_CHECKING:
    from optgeom.dashboard.data import Runs
    from optgeom.dashboard.picture import Picture

logger = logging.getLogger(__name__)


def csv_of(picture: Picture, runs: Runs, query: str) -> bytes | None:
    """Return a figure's data as CSV; None where the view has no such figure.

    Args:
        picture: the figure.
        runs: the runs.
        query: the view, as in the page's address.
    """
    seen = picture.look(runs, resolved(runs, parse(query)))
    if seen is None:
        return None
    file = io.BytesIO()
    pyarrow.csv.write_csv(picture.table(seen.what), file)
    return file.getvalue()


def serve_csv(server: flask.Flask, runs: Runs, pictures: Mapping[str, Picture]) -> None:
    """Answer ``/csv/NAME?VIEW`` with the data of one figure.

    Args:
        server: the app's server.
        runs: the runs.
        pictures: every figure by name; the name in the address is looked up in it.
    """

    def answer(name: str) -> flask.Response:
        picture = pictures.get(name)
        try:
            query = flask.request.query_string.decode("utf-8", "replace")
            data = None if picture is None else csv_of(picture, runs, query)
        except OptgeomError as error:
            logger.warning("no CSV of %s: %s", name, error)
            return flask.Response(f"{error}\n", 409, content_type="text/plain; charset=utf-8")
        if data is None:
            text = "This view has no such figure.\n"
            return flask.Response(text, 404, content_type="text/plain; charset=utf-8")
        headers = {"Content-Disposition": f"attachment; filename=optgeom-{name}.csv"}
        return flask.Response(data, headers=headers, content_type="text/csv; charset=utf-8")

    server.add_url_rule("/csv/<name>", "csv", answer, methods=["GET"])
