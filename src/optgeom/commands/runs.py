"""The traces that a command line names: one, or a folder of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import optgeom
from optgeom.traces.files.address import masked

_NAMED = 6


def runs_at(path: str) -> tuple[Mapping[str, optgeom.Trace], Mapping[str, str]]:
    """The traces of a folder, or one trace; and what is wrong with those that are damaged."""
    from optgeom.traces.errors import NotATrace

    try:
        traces = optgeom.open_traces(path)
    except NotATrace:
        one = optgeom.open_trace(path)
        return {one.name: one}, {}
    return traces, {name: str(error) for name, error in traces.damaged.items()}


def one_run(path: str, command: str) -> optgeom.Trace:
    """The trace at a path.

    Args:
        path: what was typed.
        command: such as "optgeom trace export", for the error where it is a folder of traces.

    Raises:
        NotATrace: it is none; of a folder of traces the message names them.
    """
    from optgeom.traces.errors import NotATrace
    from optgeom.traces.keeping.verify import traces_at

    found = traces_at(path)
    if found == [path]:
        return optgeom.open_trace(path)
    names = [masked(one).partition("?")[0] for one in found]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    raise NotATrace(
        f"{masked(path)} is a folder of traces ({', '.join(names[:_NAMED])}{more}): "
        f"name one of them, as in {command} {names[0]}"
    )


@contextmanager
def repair_named(path: str) -> Iterator[None]:
    """Say of damage that is met in a block what to do where there is no copy of the trace."""
    from optgeom.traces.errors import DamagedTrace

    try:
        yield
    except DamagedTrace as error:
        if "restore it" not in str(error).lower():
            raise  # such as a link out of the trace, which no repair follows
        raise DamagedTrace(
            f"{error}. Where there is none: optgeom trace verify {masked(path)} says what is lost, "
            "and with --repair keeps the rest"
        ) from error
