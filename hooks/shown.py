"""What a recorder shows of itself: where it is, what it captures, and what that has cost so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from optgeom.hooks.costs import Costs, percent
from optgeom.traces import markup

if TYPE_CHECKING:
    from optgeom.hooks.layers import Layer


class Showing(Protocol):
    """What is asked of a recorder."""

    _layers: tuple[Layer, ...]
    _stages: tuple[str, ...]
    _closed: bool
    _costs: Costs

    @property
    def step(self) -> int:
        """The step that comes next."""

    @property
    def failure(self) -> BaseException | None:
        """What stopped the capture."""

    @property
    def _background(self) -> float: ...


class Shown:
    """A line at the prompt, and a table in a notebook."""

    __slots__ = ()

    def __repr__(self: Showing) -> str:
        state = _state(self, f"step {self.step}")
        return f"<Recorder of {len(self._layers)} layers, {state}, {_share(self)} of the run>"

    def _repr_html_(self: Showing) -> str:
        costs, failure = self._costs, self.failure
        facts = {
            "next step": f"{self.step:,}",
            "layers": f"{len(self._layers):,}; describe() says which, and why",
            "stages": ", ".join(self._stages),
            "captures": f"{costs.captures:,}",
            "cost": f"{_share(self)} of the run's time",
        }
        if costs.rows_left_out:
            facts["left out"] = f"{costs.rows_left_out:,} rows, to keep to the budget"
        if failure is not None:
            facts["stopped by"] = f"{type(failure).__name__}: {failure}"
        return markup.shown("Recorder", _state(self, "recording"), markup.facts(facts))


def _state(one: Showing, running: str) -> str:
    return "closed" if one._closed else "stopped" if one.failure else running


def _share(one: Showing) -> str:
    return percent(one._costs.share(one._background))
