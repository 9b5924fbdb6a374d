"""Serving the page: waitress, this machine only unless asked otherwise, nothing from elsewhere."""

from __future__ import annotations

import errno
import ipaddress
import logging
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dash
import flask
import waitress
from dash.exceptions import DependencyException
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask

from optgeom.dashboard.access import (
    Access,
    Answer,
    DashboardError,
    access_to,
    answer_to,
    checked_token,
    is_loopback,
)
from optgeom.dashboard.app import create_app
from optgeom.traces.files.address import masked

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["DashboardError", "address_of", "make_server", "serve"]

logger = logging.getLogger(__name__)

# As many as a browser opens connections.
THREADS = 6
CALLBACKS = "/_dash-update-component"
# All of dash that the page asks for; other addresses under /_ are tools for its developers.
ROUTES = ("/_dash-layout", "/_dash-dependencies", "/_favicon.ico", CALLBACKS)
SUITES = "/_dash-component-suites/"
MAX_BODY = 1_000_000
# Browsers send the cookies of every server on a host to each of them.
MAX_HEADER = 65_536
# How long a request may take to arrive, and an idle connection stays open, in seconds.
PATIENCE = 60
# What nests deeper is no view of ours, and walking it costs Python's stack.
DEEPEST = 100

# Only features that Chromium has known for long: an unknown one is a warning in the console.
UNNEEDED = (
    *("accelerometer", "autoplay", "camera", "clipboard-read", "display-capture"),
    *("encrypted-media", "gamepad", "geolocation", "gyroscope", "hid", "idle-detection"),
    *("keyboard-map", "local-fonts", "magnetometer", "microphone", "midi", "payment"),
    *("picture-in-picture", "publickey-credentials-get", "screen-wake-lock", "serial"),
    *("storage-access", "sync-xhr", "usb", "window-management", "xr-spatial-tracking"),
)
HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Permissions-Policy", ", ".join(f"{feature}=()" for feature in UNNEEDED)),
)
_FINGERPRINT = re.compile(r"\.v[\w-]+m[0-9a-fA-F]+\.")


def serve(
    runs_path: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8050,
    token: str | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the dashboard until interrupted.

    Args:
        runs_path: a folder of traces, or one trace.
        host: the name or address to listen on; any but a loopback one needs a token.
        port: the port; 0 takes a free one.
        token: what a browser must know to look, at least 16 characters; None asks for nothing.
        on_ready: called with the address, the token in it, once the page can be opened.

    Raises:
        OptgeomError: if the path holds no trace, the host needs a token, the token is too short,
            or the port is taken.
    """
    server = make_server(runs_path, host=host, port=port, token=token)
    bound = int(server.effective_port)
    logger.info("serving %s at %s", masked(str(runs_path)), address_of(host, bound))
    if on_ready is not None:
        on_ready(address_of(host, bound, token))
    with _ended_by_ctrl_c(server):
        try:
            server.run()
        finally:
            server.close()


@contextmanager
def _ended_by_ctrl_c(server: Any) -> Iterator[None]:
    """Let Ctrl-C end the loop from a thread of its own, and a second one by an exception.

    An exception is raised wherever the loop happens to be, and in a finalizer it would be lost.
    """
    default = signal.default_int_handler
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not default:
        yield
        return

    def ending(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, default)
        threading.Thread(target=end, args=(server,), name="optgeom-end", daemon=True).start()

    signal.signal(signal.SIGINT, ending)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, default)


def end(server: Any) -> None:
    """Stop a running server of ``make_server`` from another thread.

    What is being answered comes first; then the server's own thread hangs up and closes, since a
    socket that is closed under it is an error there.
    """

    def hang_up() -> None:
        for channel in list(server.active_channels.values()):
            channel.handle_close()
        server.close()

    server.task_dispatcher.shutdown(cancel_pending=True, timeout=5)
    server.trigger.pull_trigger(hang_up)


def make_server(
    runs_path: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8050,
    token: str | None = None,
) -> Any:
    """Return a waitress server that listens already; ``run()`` answers, ``end`` stops it.

    Args:
        runs_path: a folder of traces, or one trace.
        host: the name or address to listen on; any but a loopback one needs a token.
        port: the port; 0 takes a free one.
        token: what a browser must know to look, at least 16 characters; None asks for nothing.

    Raises:
        OptgeomError: as for ``serve``.
    """
    if not host:
        raise DashboardError("a host is a name or an address; got an empty one: leave it out")
    if token is not None:
        checked_token(token)
    elif not is_loopback(host):
        raise DashboardError(
            "without a token, the dashboard is served on a loopback address only; "
            f"got host {host!r}: leave it out and reach the page with "
            "'ssh -L 8050:127.0.0.1:8050 MACHINE', or give --token-file FILE, --token auto or the "
            "variable OPTGEOM_TOKEN"
        )
    if not 0 <= port <= 65535:
        raise DashboardError(f"a port lies between 0 (any free one) and 65535; got {port}")
    app = quieted(create_app(runs_path))
    listening = _listening(host, port)
    address = str(listening.getsockname()[0]).partition("%")[0]
    access = access_to(host, token, everywhere=ipaddress.ip_address(address).is_unspecified)
    server = waitress.create_server(
        guarded(app.server.wsgi_app, policy(app), access),
        sockets=[listening],
        threads=THREADS,
        ident="optgeom",
        clear_untrusted_proxy_headers=True,
        expose_tracebacks=False,
        max_request_body_size=MAX_BODY,
        inbuf_overflow=MAX_BODY + 1,  # a body never becomes a file
        max_request_header_size=MAX_HEADER,
        channel_timeout=PATIENCE,
        cleanup_interval=max(1, PATIENCE // 10),
    )
    server.channel_class = _Channel
    return server


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket bound to one address, or say why there is none."""
    try:
        # "localhost" may name ::1 first, where the address to open names 127.0.0.1.
        named = "127.0.0.1" if host == "localhost" else host
        family, kind, _, _, place = socket.getaddrinfo(named, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
    except OSError as error:
        raise DashboardError(
            f"cannot listen on {host}:{port}: {error.strerror}: leave the host out"
        ) from error
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(place)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise DashboardError(
                f"port {port} is taken: choose another one, or 0 for any free one"
            ) from error
        raise DashboardError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return bound


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    """What waitress answers by itself, with the headers of every other answer."""

    def execute(self) -> None:
        self.response_headers.extend([*HEADERS, ("Cache-Control", "no-store")])
        super().execute()


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection whose request arrives in time as a whole, not only its next byte."""

    error_task_class = _ErrorTask
    last_activity: float

    def handle_read(self) -> None:
        began = None if self.request is None else self.last_activity
        super().handle_read()
        if began is not None and self.request is not None:
            self.last_activity = began


def address_of(host: str, port: int, token: str | None = None) -> str:
    """Return the address to open in a browser.

    >>> address_of("::1", 8050), address_of("localhost", 80, "secret")
    ('http://[::1]:8050', 'http://localhost:80/?token=secret')
    """
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    place = f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
    return place if token is None else f"{place}/?token={quote(token, safe='')}"


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


def guarded(inner: WSGIApplication, content_policy: str, access: Access) -> WSGIApplication:
    """Let through what may reach the page, and set the headers that keep the page to itself."""
    own = [("Content-Security-Policy", content_policy), *HEADERS]
    replaced = {name.lower() for name, _ in own} | {"cache-control", "server"}

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        def started(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            kept = [pair for pair in headers if pair[0].lower() not in replaced]
            caching = ("Cache-Control", caching_of(environ, status))
            return start(status, [*kept, *own, caching], *rest)

        refused = answer_to(access, environ)
        path = environ.get("PATH_INFO", "")
        if refused is None and path.startswith("/_") and not path.startswith((*ROUTES, SUITES)):
            refused = Answer("404 Not Found", "There is nothing here.")
        if refused is None:
            environ.pop("HTTP_AUTHORIZATION", None)  # nothing behind this line needs the token
            return inner(environ, started)
        body = f"{refused.text}\n".encode() if refused.text else b""
        plain = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", f"{len(body)}")]
        started(refused.status, [*plain, *refused.headers])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return application


def caching_of(environ: WSGIEnvironment, status: str) -> str:
    """Return how long a browser may keep an answer: files of one version always, numbers never.

    >>> caching_of({"PATH_INFO": "/assets/style.css", "QUERY_STRING": "m=17.5"}, "200 OK")
    'private, max-age=31536000, immutable'
    >>> caching_of({"PATH_INFO": "/", "QUERY_STRING": "m=17.5"}, "200 OK")
    'no-store'
    """
    path, query = environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
    if status[:3] not in ("200", "304") or not path.startswith((SUITES, "/assets/")):
        return "no-store"
    named = _FINGERPRINT.search(path) if path.startswith(SUITES) else query.startswith("m=")
    return "private, max-age=31536000, immutable" if named else "private, no-cache"


def quieted(app: dash.Dash) -> dash.Dash:
    """Return the app with every tool for developers off, whatever the environment asks for.

    Dash and Flask read ``DASH_DEBUG``, ``DASH_HOT_RELOAD``, ``FLASK_DEBUG`` and their like while
    the app is made; these settings come after, so they win.
    """
    app.enable_dev_tools(
        debug=False,
        dev_tools_ui=False,
        dev_tools_props_check=False,
        dev_tools_serve_dev_bundles=False,
        dev_tools_hot_reload=False,
        dev_tools_silence_routes_logging=False,
        dev_tools_disable_version_check=True,
        dev_tools_prune_errors=False,
        dev_tools_validate_callbacks=False,
    )
    inner: flask.Flask = app.server
    inner.debug = False
    inner.testing = False
    # Every error becomes an answer of this server, without its traceback.
    inner.config.update(
        PROPAGATE_EXCEPTIONS=False, TRAP_HTTP_EXCEPTIONS=False, TRAP_BAD_REQUEST_ERRORS=False
    )
    inner.before_request(lambda: _refuse_malformed(app.callback_map))
    inner.register_error_handler(
        DependencyException, lambda _: _plain("There is no such file.", 404)
    )
    return app


def _plain(text: str, status: int) -> flask.Response:
    return flask.Response(f"{text}\n", status=status, mimetype="text/plain")


def _refuse_malformed(callbacks: Mapping[str, Mapping[str, Any]]) -> flask.Response | None:
    """Answer what is no call of a callback of this page, before dash trips over it."""
    if flask.request.path != CALLBACKS or flask.request.method != "POST":
        return None
    try:
        body = flask.request.get_json()
    except RecursionError:
        return _plain("The body nests too deep.", 400)
    problem = malformed(body, callbacks)
    return None if problem is None else _plain(problem, 400)


def malformed(body: Any, callbacks: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Say what is wrong with the body of a callback request, or return None.

    Args:
        body: the parsed JSON.
        callbacks: dash's callbacks, by the name of their outputs.
    """
    if not isinstance(body, dict):
        return "A callback is called with a JSON object."
    if _deeper(body, DEEPEST):
        return "The body nests too deep."
    name = body.get("output")
    callback = callbacks.get(name) if isinstance(name, str) else None
    if callback is None or "callback" not in callback:
        return "There is no callback of this output."
    changed = body.get("changedPropIds", [])
    if not (isinstance(changed, list) and all(isinstance(one, str) for one in changed)):
        return "The changed properties are a list of names."
    for key, wanted in (("inputs", callback["inputs"]), ("state", callback["state"])):
        given = body.get(key, [])
        if not (isinstance(given, list) and len(given) == len(wanted)):
            return f"The {key} are not those of the callback."
        pairs = zip(given, wanted, strict=True)
        if not all(_fits(one, spec["id"], spec["property"]) for one, spec in pairs):
            return f"The {key} are not those of the callback."
    if callback.get("no_output"):
        return None
    outputs, told = callback["output"], body.get("outputs")
    if not isinstance(outputs, list | tuple):
        outputs, told = [outputs], [told]
    if not (isinstance(told, list) and len(told) == len(outputs)):
        return "The outputs are not those of the callback."
    specs = ((one.component_id_str(), one.component_property) for one in outputs)
    if not all(_fits(one, *spec) for one, spec in zip(told, specs, strict=True)):
        return "The outputs are not those of the callback."
    return None


def _fits(given: Any, identity: str, name: str) -> bool:
    """Whether one property in a request is the one of the callback.

    A pattern ("{...}") stands for one component or for a list of them.
    """
    pattern = identity.startswith("{")
    many = given if pattern and isinstance(given, list) else [given]
    return all(
        isinstance(one, dict)
        and (isinstance(one.get("id"), dict) if pattern else one.get("id") == identity)
        # dash writes "data@..." for a property that several callbacks set
        and str(one.get("property")).partition("@")[0] == name.partition("@")[0]
        for one in many
    )


def _deeper(value: Any, limit: int) -> bool:
    """Whether lists and objects nest deeper than a limit; a loop, since the depth is the point."""
    level: list[Any] = [value]
    for _ in range(limit):
        level = [
            inside
            for one in level
            if isinstance(one, dict | list)
            for inside in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True
