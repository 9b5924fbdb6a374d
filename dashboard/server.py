"""Serving the page: waitress, the loopback address only, nothing from anywhere else."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import waitress

from optgeom.dashboard.app import create_app
from optgeom.traces.errors import OptgeomError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    import dash

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
THREADS = 8


class DashboardError(OptgeomError):
    """The page cannot be served as asked."""


def serve(
    runs_path: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8050,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the dashboard until interrupted.

    Args:
        runs_path: a folder of traces, or one trace.
        host: a loopback name; the page has no login, so it is never served to a network.
        port: the port; 0 takes a free one.
        on_ready: called with the address once the page can be opened.

    Raises:
        OptgeomError: if the path holds no trace, the host is no loopback name, or the port is
            taken.
    """
    server = make_server(runs_path, host=host, port=port)
    address = address_of(host, int(server.effective_port))
    logger.info("serving %s at %s", runs_path, address)
    if on_ready is not None:
        on_ready(address)
    try:
        server.run()
    finally:
        server.close()


def make_server(runs_path: str | Path, *, host: str = "127.0.0.1", port: int = 8050) -> Any:
    """Return a waitress server that listens already; ``run()`` answers, ``close()`` ends it.

    Args:
        runs_path: a folder of traces, or one trace.
        host: a loopback name.
        port: the port; 0 takes a free one.

    Raises:
        OptgeomError: as for ``serve``.
    """
    if host not in LOOPBACK:
        raise DashboardError(
            f"the dashboard is served on a loopback address only; got host {host!r}: leave it out, "
            "and reach another machine's page with ssh -L 8050:127.0.0.1:8050"
        )
    if not 0 <= port <= 65535:
        raise DashboardError(f"a port lies between 0 (any free one) and 65535; got {port}")
    app = create_app(runs_path)
    return waitress.create_server(
        guarded(app.server.wsgi_app, policy(app)),
        sockets=[_listening(host, port)],
        threads=THREADS,
        ident="optgeom",
        clear_untrusted_proxy_headers=True,
    )


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket bound to one loopback address, or say why there is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("127.0.0.1" if host == "localhost" else host, port))
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise DashboardError(
                f"port {port} is taken: choose another one, or 0 for any free one"
            ) from error
        raise DashboardError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return bound


def address_of(host: str, port: int) -> str:
    """Return the address to open in a browser.

    >>> address_of("::1", 8050)
    'http://[::1]:8050'
    """
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def policy(app: dash.Dash) -> str:
    """Return the content security policy: everything from here, no evaluated script.

    Styles may be inline, since figures and components set them so.
    """
    hashes = " ".join(f"'{one}'" if not one.startswith("'") else one for one in app.csp_hashes())
    return (
        f"default-src 'self'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def guarded(inner: WSGIApplication, content_policy: str) -> WSGIApplication:
    """Refuse requests under a foreign name, and set the headers that keep the page to itself.

    A foreign Host header is how another site's script reaches a loopback server (DNS rebinding).
    """

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if hostname(environ.get("HTTP_HOST", "")) not in LOOPBACK:
            start("421 Misdirected Request", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"This page answers to 127.0.0.1 and localhost only.\n"]

        def started(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            extra = [
                ("Content-Security-Policy", content_policy),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
            ]
            return start(status, [*headers, *extra], *rest)

        return inner(environ, started)

    return application


def hostname(header: str) -> str:
    """Return the name in a Host header, without its port.

    >>> hostname("127.0.0.1:8050"), hostname("[::1]:8050"), hostname("localhost")
    ('127.0.0.1', '::1', 'localhost')
    """
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()
