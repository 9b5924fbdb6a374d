"""Who may ask: under which name, from which site, with which token."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote_plus

from optgeom.traces.errors import OptgeomError

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

logger = logging.getLogger(__name__)

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
METHODS = ("GET", "HEAD", "POST", "OPTIONS")
TOKEN_VARIABLE = "OPTGEOM_TOKEN"
SHORTEST_TOKEN = 16
# Wrong tokens per minute; a token of 32 random bytes needs no limit, one that a person chose does.
WRONG_TOKENS = 10
MINUTE = 60.0

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_TOKEN = re.compile(r"[!-~]+")
_MAKE_ONE = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'
_NO_TOKEN = (
    "This page wants its token: open the address that 'optgeom dashboard' printed, or, where that "
    "is done and a link of another site led here, press Enter in the address bar."
)


class DashboardError(OptgeomError):
    """The page cannot be served as asked."""


class Answer(NamedTuple):
    """An answer that needs no page: a status, a line of plain text, and headers of its own."""

    status: str
    text: str = ""
    headers: tuple[tuple[str, str], ...] = ()


class Attempts:
    """Compares tokens, and stops comparing for a while after too many wrong ones.

    While it has stopped, the right token is refused too: else guessing would go on at any speed.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: deque[float] = deque(maxlen=WRONG_TOKENS)
        self._lock = threading.Lock()

    def judge(self, given: str, token: str) -> bool | None:
        """Return whether the given token is right, or None where there were too many wrong ones."""
        with self._lock:
            now = self._clock()
            if len(self._wrong) == WRONG_TOKENS and now - self._wrong[0] < MINUTE:
                return None
            if hmac.compare_digest(given.encode(), token.encode()):
                return True
            self._wrong.append(now)
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What one server asks of every request.

    Attributes:
        names: the names that it answers to, in lower case.
        any_address: True where every IP address in a Host header is one of its names. An address
            is no danger: a page that rebinds a name to this machine still sends that name.
        token: the token, or None where whoever reaches the server may look.
        session: what the cookie of a browser that knew the token holds. It is made from the token
            and a key that lives as long as the process, so it says nothing about the token, and
            ends with the server.
        attempts: the wrong tokens so far.
    """

    names: frozenset[str]
    any_address: bool = False
    token: str | None = field(default=None, repr=False)
    session: str = field(default="", repr=False)
    attempts: Attempts = field(default_factory=Attempts, repr=False)


def access_to(host: str, token: str | None, *, everywhere: bool = False) -> Access:
    """Return what a server on this host asks.

    Args:
        host: the host that it was asked to listen on.
        token: its token, if any.
        everywhere: True where it listens on all of the machine's addresses.
    """
    names = LOOPBACK | {host.lower()}
    if everywhere:
        own = (socket.gethostname().lower(), socket.getfqdn().lower())
        names = LOOPBACK | {*own, *(name.partition(".")[0] for name in own)}
    session = ""
    if token is not None:
        session = hmac.digest(secrets.token_bytes(32), token.encode(), "sha256").hex()
    return Access(names=names, any_address=everywhere, token=token, session=session)


def answer_to(access: Access, environ: WSGIEnvironment) -> Answer | None:
    """Return the answer to a request that must not reach the page, or None for one that may."""
    return _named(access, environ) or _crossing(environ) or _identified(access, environ)


def _named(access: Access, environ: WSGIEnvironment) -> Answer | None:
    """Refuse a foreign name: it is how another site's script gets here (DNS rebinding)."""
    header = environ.get("HTTP_HOST", "")
    if not header:
        return Answer("421 Misdirected Request", "A request names the host that it is for.")
    host = hostname(header)
    if host is None:
        return Answer("400 Bad Request", "The Host header is no name and no address.")
    if host in access.names or (access.any_address and is_address(host)):
        return None
    names = ", ".join(sorted(access.names)) + (" and IP addresses" if access.any_address else "")
    return Answer("421 Misdirected Request", f"This page answers to these names only: {names}.")


def _crossing(environ: WSGIEnvironment) -> Answer | None:
    """Refuse what another site's page sends; following a link from there stays possible."""
    method = environ["REQUEST_METHOD"]
    if method not in METHODS:
        allowed = ", ".join(METHODS)
        return Answer("405 Method Not Allowed", f"Allowed: {allowed}.", (("Allow", allowed),))
    if environ.get("HTTP_SEC_FETCH_SITE", "").lower() in ("cross-site", "same-site"):
        opened = (
            method == "GET"
            and environ.get("HTTP_SEC_FETCH_MODE", "").lower() == "navigate"
            and environ.get("HTTP_SEC_FETCH_DEST", "").lower() == "document"
        )
        if not opened:
            return Answer("403 Forbidden", "This page does not answer to other sites.")
    origin = environ.get("HTTP_ORIGIN")
    if method == "POST" and origin is not None:
        host = environ.get("HTTP_HOST", "").lower()
        if origin.lower() not in (f"http://{host}", f"https://{host}"):
            return Answer("403 Forbidden", "This page takes nothing from other origins.")
    return None


def _identified(access: Access, environ: WSGIEnvironment) -> Answer | None:
    """Ask for the cookie, or for the token, which becomes the cookie at once."""
    if access.token is None:
        return None
    cookie = cookie_name(environ)
    known = any(
        hmac.compare_digest(value.encode(), access.session.encode())
        for value in cookies(environ.get("HTTP_COOKIE", ""), cookie)
    )
    reading = environ["REQUEST_METHOD"] in ("GET", "HEAD")
    given, query = without_token(environ.get("QUERY_STRING", "")) if reading else (None, "")
    if known:
        # Once known, the token only has to go from the address.
        return None if given is None else _moved(environ, query)
    bearer = environ.get("HTTP_AUTHORIZATION", "")
    is_bearer = bearer[:7].lower() == "bearer "
    if not is_bearer and given is None:
        return Answer("403 Forbidden", _NO_TOKEN)
    right = access.attempts.judge(bearer[7:].strip() if is_bearer else given or "", access.token)
    if right is None:
        text = "Too many wrong tokens: wait a minute."
        return Answer("429 Too Many Requests", text, (("Retry-After", "60"),))
    if not right:
        logger.warning("refused a wrong token from %s", environ.get("REMOTE_ADDR", "nowhere"))
        return Answer("403 Forbidden", "This is not the token.")
    if is_bearer:
        return None
    held = f"{cookie}={access.session}; HttpOnly; SameSite=Strict; Path=/"
    return _moved(environ, query, ("Set-Cookie", held))


def _moved(environ: WSGIEnvironment, query: str, *headers: tuple[str, str]) -> Answer:
    """Lead to the same address without its token, never to another host.

    Two slashes, or a slash and a backslash, would begin the address of another host, hence the
    one slash and the quoting.
    """
    path = "/" + environ.get("PATH_INFO", "").lstrip("/")
    place = quote(path.encode("latin-1"), safe="/~:@!$&'()*+,;=") + (f"?{query}" if query else "")
    return Answer("303 See Other", "", (("Location", place), *headers))


def cookie_name(environ: WSGIEnvironment) -> str:
    """Return the name of the cookie, which bears the port that the browser sees.

    Cookies are shared by all ports of a host, so two servers behind two tunnels need two names.
    """
    found = _HOST.fullmatch(environ.get("HTTP_HOST", ""))
    port = (found and found["port"]) or environ.get("SERVER_PORT", "80")
    return f"optgeom_{port}"


def cookies(header: str, name: str) -> list[str]:
    """Return the values of all cookies of a name.

    >>> cookies("a=1; optgeom_8050=x; optgeom_8050=y", "optgeom_8050")
    ['x', 'y']
    """
    pairs = (pair.strip().partition("=") for pair in header.split(";"))
    return [value for key, _, value in pairs if key == name]


def without_token(query: str) -> tuple[str | None, str]:
    """Return the first token of a query, and the query without any, else byte for byte.

    >>> without_token("a=%6d&token=abc&b=")
    ('abc', 'a=%6d&b=')
    >>> without_token("a=token")
    (None, 'a=token')
    """
    parts = [(part, *part.partition("=")[::2]) for part in query.split("&")]
    found = [unquote_plus(value) for _, name, value in parts if unquote_plus(name) == "token"]
    kept = "&".join(part for part, name, _ in parts if unquote_plus(name) != "token")
    return (found[0] if found else None), kept


def hostname(header: str) -> str | None:
    """Return the name in a Host header, without its port, or None where it has no such form.

    >>> hostname("LOCALHOST:8050"), hostname("[::1]:8050"), hostname("a:b:c")
    ('localhost', '::1', None)
    """
    found = _HOST.fullmatch(header)
    return found["name"].strip("[]").lower() if found else None


def is_address(host: str) -> bool:
    """Whether this is an IP address, not a name that must be looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host.

    >>> is_loopback("127.0.0.2"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


# -- where a token comes from ------------------------------------------------------------------


def new_token() -> str:
    """Return a token of 32 random bytes."""
    return secrets.token_urlsafe(32)


def checked_token(token: str, source: str = "the token") -> str:
    """Return a token that is long enough to keep anybody out.

    Args:
        token: the token.
        source: where it comes from, for the error, which never shows the token itself.

    Raises:
        DashboardError: if it is too short, or holds what a header cannot.
    """
    if len(token) < SHORTEST_TOKEN:
        raise DashboardError(
            f"a token has at least {SHORTEST_TOKEN} characters; {source} has {len(token)}: "
            f"make one with {_MAKE_ONE}"
        )
    if not _TOKEN.fullmatch(token):
        raise DashboardError(
            f"a token is printable ASCII without spaces; {source} holds something else: "
            f"make one with {_MAKE_ONE}"
        )
    return token


def token_in(path: str | Path) -> str:
    """Return the token in a file, and warn where others can read that file too.

    Raises:
        DashboardError: if the file cannot be read, or holds no token.
    """
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(4096).decode("ascii", "replace").strip()
    except OSError as error:
        raise DashboardError(f"cannot read the token file {path}: {error.strerror}") from error
    if os.name == "posix" and mode & 0o077:
        logger.warning("others can read the token file %s: chmod 600 keeps it to you", path)
    return checked_token(text, f"the token file {path}")


def chosen_token(
    option: str | None, file: str | Path | None, environ: Mapping[str, str]
) -> str | None:
    """Return the token that the command line or the environment asks for, None for none.

    Args:
        option: what ``--token`` was given.
        file: what ``--token-file`` was given.
        environ: the environment.

    Raises:
        DashboardError: if there are two, or the token is none.
    """
    if option is not None and option != "auto":
        raise DashboardError(
            "--token takes 'auto' only, since every user of this machine sees a command line (ps); "
            f"got something else: give --token-file FILE or the variable {TOKEN_VARIABLE}"
        )
    if option is not None and file is not None:
        raise DashboardError("a page has one token; got --token and --token-file: leave one out")
    if option is not None:
        return new_token()
    if file is not None:
        return token_in(file)
    found = environ.get(TOKEN_VARIABLE)
    return None if found is None else checked_token(found, f"the variable {TOKEN_VARIABLE}")
