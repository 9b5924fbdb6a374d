"""Units on a Dask cluster: workers on any machines that see the trace under the same address."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence

from optgeom.geometry.analysis.engine import Done, Source, given_up, measured_elsewhere
from optgeom.geometry.analysis.units import Unit
from optgeom.traces.errors import OptgeomError

CONNECT_SECONDS = 10

_ADDRESS = re.compile(r"[a-z]+://.+:\d+/?")


def on_cluster(units: Sequence[Unit], source: Source, scheduler: str) -> Generator[Done]:
    """Measure units; Dask begins those of a worker that died again, on others.

    Args:
        units: Any.
        source: The trace, under an address that every worker sees it by.
        scheduler: Address, such as tcp://10.0.0.1:8786.

    Yields:
        Each unit as it is done, or given up when Dask does.

    Raises:
        OptgeomError: if dask.distributed is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise OptgeomError(
            "--scheduler needs dask.distributed: pip install 'optgeom[dask]'"
        ) from error
    if not _ADDRESS.fullmatch(scheduler):
        raise OptgeomError(
            f"{scheduler!r} is no address of a Dask scheduler: write tcp://HOST:8786"
        )
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OptgeomError(
            f"no Dask scheduler answers at {scheduler}: start one with 'dask scheduler' ({error})"
        ) from error
    with client, client.as_current():
        futures = {
            client.submit(measured_elsewhere, source, unit, pure=False): unit for unit in units
        }
        try:
            for future in as_completed(futures):
                unit = futures.pop(future)
                if future.status == "finished":
                    yield Done(unit, future.result())
                else:
                    why = future.exception() if future.status == "error" else None
                    yield Done(unit, given_up(unit, f"{why or 'the scheduler is gone'}"))
                future.release()
        finally:
            client.cancel(list(futures))
