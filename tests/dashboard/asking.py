"""A served dashboard and requests to it, header by header, as no browser would send them."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from optgeom.dashboard.controls import PAGES
from optgeom.dashboard.server import address_of, end, make_server

TOKEN = "correct-horse-battery-staple"
CALLBACKS = "/_dash-update-component"


class Got(NamedTuple):
    """An answer, its headers by their names in lower case."""

    status: int
    headers: dict[str, str]
    text: str


WAITS = 1 << 16
"""Bytes of a body from which on the answer to the headers is waited for."""


def ask(
    address: str,
    path: str = "/",
    method: str = "GET",
    body: bytes | None = None,
    **headers: str | None,
) -> Got:
    """Ask with exactly these headers; ``host=None`` sends none, underscores become hyphens."""
    where = urlsplit(address)
    sent = {"host": where.netloc, **headers}
    if body is not None:
        sent = {"content_type": "application/json", "content_length": str(len(body)), **sent}
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        # A large body waits for a refusal first: sent all the same, the server would hang up on it
        # and the answer could be lost.
        refused = len(body or b"") > WAITS and select.select([connection.sock], [], [], 1.0)[0]
        if body and not refused:
            connection.send(body)
        got = connection.getresponse()
        text = got.read().decode("utf-8", "replace")
        return Got(got.status, {name.lower(): value for name, value in got.getheaders()}, text)


def call(address: str, body: bytes | dict[str, Any], **headers: str | None) -> Got:
    """Call a callback."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ask(address, CALLBACKS, "POST", sent, **headers)


@contextlib.contextmanager
def served(runs: Path, **settings: Any) -> Iterator[str]:
    """Serve a folder of runs on a free port and yield the address, without its token."""
    made = make_server(runs, port=0, **settings)
    thread = threading.Thread(target=made.run, daemon=True)
    thread.start()
    try:
        yield address_of("127.0.0.1", made.effective_port)
    finally:
        end(made)
        thread.join(timeout=5)


def calls(address: str, value: Any) -> Iterator[dict[str, Any]]:
    """Yield a well-formed call of every callback on every page, with one value everywhere."""
    known = {
        "view": {"q": f"?a={quote(str(value), errors='replace')}", "token": "x", "steps": [0]},
        "scheme": "light",
    }

    def given(spec: dict[str, Any], page: str) -> Any:
        identity, name = spec["id"], spec["property"]
        if identity.startswith("{"):
            return []  # a pattern, of which the page has no component now
        stored = known.get(identity, value) if name == "data" else value
        return {"id": identity, "property": name, "value": page if name == "pathname" else stored}

    for one in json.loads(ask(address, "/_dash-dependencies").text):
        if one["clientside_function"] is None:
            for page in PAGES:
                yield {
                    "output": one["output"],
                    "outputs": _outputs(one["output"]),
                    "inputs": [given(spec, page) for spec in one["inputs"]],
                    "state": [given(spec, page) for spec in one["state"]],
                    "changedPropIds": [f"{s['id']}.{s['property']}" for s in one["inputs"][:1]],
                }


def _outputs(named: str) -> Any:
    """Return the outputs that dash's own script sends for a callback of this name."""
    if named.startswith("..") and named.endswith(".."):
        return [_outputs(one) for one in named[2:-2].split("...")]
    identity, _, name = named.rpartition(".")
    return [] if identity.startswith("{") else {"id": identity, "property": name}
