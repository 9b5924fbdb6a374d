"""Addresses of traces as text: what of one may be shown, and that of a folder within another.

A URI may hold keys and tokens. What is shown, logged or raised has `***` in their place; only
`Place.uri` hands out the whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

MASK = "***"
_SHOWN = frozenset({"endpoint_override", "region", "scheme"})
_NO_SECRET = frozenset({"anonymous", MASK})
_LONG_ENOUGH = 4
# in a run's own words a short secret, such as "test", may be a word like another
_SURELY_SECRET = 8
_ENVIRONMENT = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")


def is_uri(address: str) -> bool:
    """Whether it is a URI, and no path."""
    return "://" in address


def masked(address: str) -> str:
    """The address as it may be shown: without user info, and without what a query may hide.

    >>> masked("s3://KEY:SECRET@bucket/run?endpoint_override=127.0.0.1:9000&sig=x")
    's3://***@bucket/run?endpoint_override=127.0.0.1:9000&sig=***'
    >>> masked("s3://KEY:with/slash@bucket/run"), masked("s3://bucket/run@2"), masked("runs/a@b")
    ('s3://***@bucket/run', 's3://bucket/run@2', 'runs/a@b')
    """
    if not is_uri(address):
        return address
    scheme, user, rest, query = _parts(address)
    shown = user if user in _NO_SECRET else MASK
    at = f"{shown}@" if user else ""
    return f"{scheme}://{at}{rest}{_masked_query(query)}"


def below(address: str, path: str) -> str:
    """The address of `path` within another: a URI's query stays behind it.

    >>> below("s3://bucket/runs/?region=x", "a b"), below("runs/", "a b")
    ('s3://bucket/runs/a%20b?region=x', 'runs/a b')
    """
    if not is_uri(address):
        return f"{address.rstrip('/')}/{path}"
    head, query = _split(address)
    return f"{head.rstrip('/')}/{quote(path)}{query}"


def without_query(address: str) -> str:
    """The address as files within it are called in errors.

    >>> without_query("s3://bucket/run?region=x"), without_query("runs/why?")
    ('s3://bucket/run', 'runs/why?')
    """
    return _split(address)[0] if is_uri(address) else address


def name_of(address: str) -> str:
    """The last part of a path or URI: what a run there is called.

    >>> name_of("s3://KEY:SECRET@bucket/a%20b?region=x"), name_of("s3://bucket"), name_of("r/a/")
    ('a b', 'bucket', 'a')
    """
    if not is_uri(address):
        return os.path.basename(os.path.abspath(address))
    _, _, rest, _ = _parts(address)
    return unquote(rest.rstrip("/").rpartition("/")[2])


def scrubbed(message: str, address: str) -> str:
    """The first line of a message, with the secrets of an address masked in it."""
    line = message.partition("\n")[0].replace(address, masked(address))
    return _without(_secrets(address), line)


def shareable(value: Any, address: str) -> Any:
    """A value of JSON as it may be kept: the secrets of all URIs in its texts are masked.

    So are those of `address` wherever they stand, and the keys of the environment. What is no JSON
    stays as it is, unless its text has something to mask.

    >>> shareable({"out": "--out=s3://KEY:SECRET@bucket/run", "lr": 0.1}, "")
    {'out': '--out=s3://***@bucket/run', 'lr': 0.1}
    """
    secrets = [one for one in _secrets(address) if len(one) >= _SURELY_SECRET]
    secrets += [one for name in _ENVIRONMENT if len(one := os.environ.get(name, "")) > _LONG_ENOUGH]

    def clean(text: str) -> str:
        text = text.replace(address, masked(address)) if address else text
        return _without(secrets, _URI.sub(lambda found: masked(found.group()), text))

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return clean(value)
        if isinstance(value, Mapping):
            return {walk(key) if isinstance(key, str) else key: walk(v) for key, v in value.items()}
        if isinstance(value, tuple):
            return tuple(map(walk, value))
        if isinstance(value, list):
            return [*map(walk, value)]
        if value is None or isinstance(value, (bool, int, float)):
            return value
        text = str(value)
        return value if clean(text) == text else clean(text)

    return walk(value)


def _secrets(address: str) -> list[str]:
    """What of an address must not be seen, the longest first."""
    if not is_uri(address):
        return []
    _, user, _, query = _parts(address)
    values = [one.partition("=") for one in query[1:].split("&")]
    found = [user, *user.split(":", 1), *(value for name, _, value in values if _hides(name))]
    # a server's address may bring a user of its own
    found += [value.rpartition("@")[0] for _, _, value in values if "@" in value]
    kept = {one for one in (*found, *map(unquote, found)) if len(one) >= _LONG_ENOUGH}
    return sorted(kept - _NO_SECRET, key=len, reverse=True)


def _without(secrets: Iterable[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def _split(address: str) -> tuple[str, str]:
    """What is before a URI's query or fragment, and these with their mark."""
    mark = re.search("[?#]", address)
    at = len(address) if mark is None else mark.start()
    return address[:at], address[at:]


def _parts(address: str) -> tuple[str, str, str, str]:
    """Scheme, user info, host with path, query with its mark; of a URI that may be malformed."""
    scheme, _, rest = address.partition("://")
    head, query = _split(rest)
    host, slash, path = head.partition("/")
    user, at, kept = host.rpartition("@")
    if at:
        return scheme, user, f"{kept}{slash}{path}", query
    _, colon, port = host.partition(":")
    if colon and "@" in path:
        # a key with a slash that was not written as %2F: what is before the last @ is secret
        user, _, kept = head.rpartition("@")
        return scheme, user, kept, query
    if colon and (not port.isdigit() or "@" in query):
        # a key with a question mark, as above: nothing of it can be told apart
        return scheme, rest, "", ""
    return scheme, "", head, query


def _masked_query(query: str) -> str:
    if not query.startswith("?"):
        return ""
    shown = []
    for one in query[1:].partition("#")[0].split("&"):
        name, equals, value = one.partition("=")
        if not equals:
            shown.append(MASK)
        else:
            hidden = _hides(name) or "@" in unquote(value)
            shown.append(f"{name}={MASK if hidden else value}")
    return f"?{'&'.join(shown)}"


def _hides(name: str) -> bool:
    return name not in _SHOWN
