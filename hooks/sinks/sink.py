"""What takes the numbers: an object with `open`, `send` and `close`, ours or anyone's."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from optgeom.hooks.errors import WatchError
from optgeom.hooks.sinks.series import Point, Series
from optgeom.traces.files.address import MASK, scrubbed, shareable

_METHODS = ("open", "send", "close")
_USER = re.compile(r"//[^\s/@]+@")


@runtime_checkable
class Sink(Protocol):
    """Takes numbers of a run. `open` may raise; what `send` raises ends the sending to this sink.

    Attributes:
        series: which numbers it wants; one without the attribute gets those of `Series()`.
    """

    series: Series

    def open(self, run: str) -> None:
        """Begin, before training, on rank 0.

        Args:
            run: the run's name.
        """

    def send(self, points: Sequence[Point]) -> None:
        """Take numbers, by step and then by name; of one name, steps only go up.

        Args:
            points: (step, name, value), all of them finite.
        """

    def close(self) -> None:
        """End; nothing is sent any more."""


def checked(also: Any) -> tuple[Sink, ...]:
    """What was given as `also=`.

    Raises:
        WatchError: something that is no sink, or one twice.
    """
    if isinstance(also, str) or not isinstance(also, Iterable):
        raise WatchError(
            f'also= takes a list of sinks, such as [optgeom.sinks.TensorBoard("runs/tb")], '
            f"got {also!r}"
        )
    sinks = tuple(also)
    for sink in sinks:
        missing = [name for name in _METHODS if not callable(getattr(sink, name, None))]
        if missing or isinstance(sink, type):
            what = f"the class {sink.__name__}" if isinstance(sink, type) else repr(sink)
            raise WatchError(
                f"a sink has open(run), send(points) and close(), got {what}: make one of "
                "optgeom.sinks.TensorBoard(folder), WandB() or MLflow()"
            )
        if not isinstance(series_of(sink), Series):
            raise WatchError(f"series of {name_of(sink)} must be an optgeom.sinks.Series")
    if len({id(sink) for sink in sinks}) < len(sinks):
        raise WatchError("each sink is given once, got one of them twice")
    return sinks


def name_of(sink: object) -> str:
    """What messages and scalars call it."""
    return type(sink).__name__


def series_of(sink: object) -> Any:
    """Which numbers it wants."""
    return getattr(sink, "series", None) or Series()


def told(error: object, address: str = "") -> str:
    """The text of a library's exception, as it may be shown: without what addresses hide.

    >>> told("no route to //user:secret@host:5000/api")
    'no route to //***@host:5000/api'
    >>> told("host=a, password=longsecret", "http://me:longsecret@a")
    'host=a, password=***'

    Args:
        error: or its text.
        address: whose secrets are masked wherever they stand.
    """
    lines = str(error).split("\n")
    text = "\n".join(scrubbed(line, address) if address else line for line in lines)
    return _USER.sub(f"//{MASK}@", str(shareable(text, "")))


def refusal(said: str, error: BaseException, address: str = "") -> WatchError:
    """What is raised from an exception; not from one whose own text would show what is masked.

    Args:
        said: what comes before its text.
        error: of a library.
        address: as for `told`.
    """
    text = told(error, address)
    made = WatchError(f"{said}: {text}")
    if text == str(error):
        made.__cause__ = error
    made.__suppress_context__ = True
    return made


def package(name: str, sink: str) -> Any:
    """A package that a sink needs.

    Args:
        name: of the module.
        sink: who needs it.

    Raises:
        WatchError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise WatchError(
            f"{sink} needs the package {name.partition('.')[0]} ({error}): "
            "pip install 'optgeom[sinks]'"
        ) from error
