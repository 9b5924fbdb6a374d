"""The live state in the header: how far the runs are, and how old the newest step is."""

from __future__ import annotations

from optgeom.dashboard.data import Runs
from optgeom.figures.formats import whole

# A run counts as stale when it has not written for this long, in seconds.
STALE = 60.0


class Live:
    """Remembers when something new was last seen; one per app."""

    def __init__(self) -> None:
        self._token = ""
        self._since: float | None = None

    def text(self, runs: Runs, token: str, now: float) -> str:
        """Return the live state, such as ``step 1,240 · 3 s ago``.

        Args:
            runs: the runs.
            token: their token now.
            now: seconds of a clock that only goes forward.
        """
        if token != self._token:
            # What was there at the first look has no known age.
            self._since = now if self._token else None
            self._token = token
        traces = runs.all()
        last = max((one.last_step for one in traces if one.last_step is not None), default=None)
        if last is None:
            return "no step yet"
        step = f"step {whole(last)}"
        if all(trace.closed for trace in traces):
            return f"{step} \N{MIDDLE DOT} ended"
        if self._since is None:
            return step
        age = now - self._since
        if age > STALE:
            return f"{step} \N{MIDDLE DOT} no new step for {_age(age)}"
        return f"{step} \N{MIDDLE DOT} {_age(age)} ago"


def _age(seconds: float) -> str:
    return f"{int(seconds)} s" if seconds < 60 else f"{int(seconds // 60)} min"
