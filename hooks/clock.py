"""Which steps are captured, and which layers at a captured step.

Captured steps follow from the settings alone, never from time, so that runs with equal settings
share them. A budget thins layers: at capture c, layer i is measured when c = i (mod k).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from optgeom.hooks.errors import WatchError

COMPARED_EVERY = 32
"""Steps between comparisons of an update with the weights, the gradient and the update before it.
They cost more than the norms and change more slowly, so where norms are captured more often than
this, the layers take turns."""

CADENCES = ("every", "spectra_every", "updates_every", "burst")
"""The settings of `watch` itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """When the layers of a group are captured; None takes what `watch` was given.

    Attributes:
        every: steps between captures of neuron norms and scalars.
        spectra_every: steps between captures of singular values.
        updates_every: steps between captures of raw matrices; 0: never.
        burst: consecutive steps per capture of spectra and raw matrices.
        start: the first step that is captured, if the cadence meets it; cadences count from
            step 0, so that groups share their steps.
        stop: the step before which capture ends; None: it does not.
    """

    every: int | None = None
    spectra_every: int | None = None
    updates_every: int | None = None
    burst: int | None = None
    start: int = 0
    stop: int | None = None

    def over(self, given: Clock) -> Clocks:
        """Resolve against what `watch` was given.

        Raises:
            WatchError: the cadences do not fit together.
        """
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        chosen = {name: getattr(given, name) if v is None else v for name, v in own.items()}
        return Clocks.of(**chosen)


@dataclass(frozen=True, slots=True)
class Clocks:
    """The cadences of a layer in steps; `updates_every` 0 means never."""

    every: int
    spectra_every: int
    updates_every: int
    burst: int = 1
    start: int = 0
    stop: int | None = None

    @classmethod
    def of(
        cls,
        every: int | None,
        spectra_every: int | None = None,
        updates_every: int | None = None,
        burst: int | None = 1,
        start: int = 0,
        stop: int | None = None,
    ) -> Clocks:
        """Resolve the defaults and refuse cadences that do not fit together.

        Raises:
            WatchError: a cadence is no positive integer, or no multiple of `every`.
        """
        norms = _whole("every", every, 1)
        spectra = _whole("spectra_every", norms if spectra_every is None else spectra_every, 1)
        updates = _whole("updates_every", 20 * norms if updates_every is None else updates_every, 0)
        steps = _whole("burst", burst, 1)
        for name, value in (("spectra_every", spectra), ("updates_every", updates)):
            if value % norms:
                raise WatchError(
                    f"{name} must be a multiple of every={norms}, got {value}; "
                    f"the next one is {value - value % norms + norms}"
                )
        if steps > spectra:
            raise WatchError(f"burst must not exceed spectra_every={spectra}, got {steps}")
        first = _whole("start", start, 0)
        if stop is not None and _whole("stop", stop, 0) <= first:
            raise WatchError(f"stop must be beyond start={first}, got {stop}")
        return cls(norms, spectra, updates, steps, first, stop)

    def live(self, step: int) -> bool:
        """Whether a step is between start and stop."""
        return self.start <= step and (self.stop is None or step < self.stop)

    def norms(self, step: int) -> bool:
        """Whether neuron norms and scalars are captured at a step."""
        due = step % self.every == 0 and self.live(step)
        return due or self.spectra(step) or self.updates(step)

    def spectra(self, step: int) -> bool:
        """Whether singular values are captured at a step."""
        return step % self.spectra_every < self.burst and self.live(step)

    def updates(self, step: int) -> bool:
        """Whether raw matrices are captured at a step."""
        return self.updates_every > 0 and step % self.updates_every < self.burst and self.live(step)

    def next(self, step: int) -> int | None:
        """The first captured step from `step` on; None if there is none."""
        step = max(step, self.start)
        bursts = [every for every in (self.spectra_every, self.updates_every) if every]
        first = min(
            step + -step % self.every,
            *(step if step % every < self.burst else step + -step % every for every in bursts),
        )
        return first if self.live(first) else None

    @property
    def norms_per_step(self) -> float:
        """How often norms are captured while the clock is live."""
        extra = 0.0  # steps of a burst that are no multiples of `every`
        between = self.burst - -(-self.burst // self.every)
        if between:
            extra = between / self.spectra_every
            if self.updates_every and self.updates_every % self.spectra_every:
                extra += between / self.updates_every
        return min(1.0, 1.0 / self.every + extra)

    @property
    def spectra_per_step(self) -> float:
        """How often singular values are captured while the clock is live."""
        return self.burst / self.spectra_every

    @property
    def updates_per_step(self) -> float:
        """How often raw matrices are captured while the clock is live."""
        return min(1.0, self.burst / self.updates_every) if self.updates_every else 0.0

    def slower(self) -> Clocks:
        """The same clocks at half the cadence of the norms."""
        every = 2 * self.every
        return replace(
            self,
            every=every,
            spectra_every=every * -(-self.spectra_every // every),
            updates_every=every * -(-self.updates_every // every),
        )


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise WatchError(f"{name} must be an integer of at least {least}, got {value!r}")
    return value


def next_capture(clocks: Iterable[Clocks], step: int) -> int | None:
    """The first step from `step` on at which any layer is captured; None if there is none.

    Args:
        clocks: one per layer; equal ones may be given once.
        step: to begin with.
    """
    due = [found for one in set(clocks) if (found := one.next(step)) is not None]
    return min(due, default=None)


def chosen(index: int, capture: int, thinning: int) -> bool:
    """Whether a layer is measured at a capture of one clock.

    Args:
        index: of the layer in the trace's order.
        capture: how many captures of that clock came before.
        thinning: k, a power of two; a larger one measures a subset of what a smaller one does.

    >>> [layer for layer in range(8) if chosen(layer, capture=1, thinning=4)]
    [1, 5]
    """
    return capture % thinning == index % thinning


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step captures, of which layers by index.

    Attributes:
        norms: rows of neuron norms and scalars.
        spectra: singular values.
        updates: raw matrices.
        compared: those of `norms` whose rows compare the update with other matrices too.
        left_out: spectra and raw matrices that the budget leaves out.
    """

    norms: frozenset[int]
    spectra: frozenset[int]
    updates: frozenset[int]
    compared: frozenset[int]
    left_out: int = 0

    @property
    def layers(self) -> frozenset[int]:
        """Every layer that is read at all."""
        return self.norms | self.spectra | self.updates

    def without(self, layers: frozenset[int]) -> Plan:
        """The same plan, less some layers."""
        if not layers:
            return self
        kept = (self.norms, self.spectra, self.updates, self.compared)
        norms, spectra, updates, compared = (one - layers for one in kept)
        return Plan(norms, spectra, updates, compared, self.left_out)


def plan(clocks: Sequence[Clocks], step: int, thinning: int, *, whole: bool) -> Plan | None:
    """What a step captures; None for a step that captures nothing.

    Args:
        clocks: one per layer.
        step: the recorder's step.
        thinning: k of the budget.
        whole: everything, whatever clocks and budget say.
    """
    if whole:
        everything = frozenset(range(len(clocks)))
        return Plan(everything, everything, everything, everything)
    norms = frozenset(i for i, one in enumerate(clocks) if one.norms(step))
    if not norms:
        return None
    spectra = {i: step // clocks[i].spectra_every for i in norms if clocks[i].spectra(step)}
    updates = {i: step // clocks[i].updates_every for i in norms if clocks[i].updates(step)}
    kept_spectra, kept_updates = (
        frozenset(i for i, capture in due.items() if chosen(i, capture, thinning))
        for due in (spectra, updates)
    )
    left_out = len(spectra) + len(updates) - len(kept_spectra) - len(kept_updates)
    in_turn = frozenset(
        i
        for i in norms
        if chosen(i, step // clocks[i].every, max(1, COMPARED_EVERY // clocks[i].every))
    )
    compared = in_turn | kept_spectra | kept_updates
    return Plan(norms, kept_spectra, kept_updates, compared, left_out)


def cadences(groups: Sequence[str | None], clocks: Sequence[Clocks]) -> dict[str, Any]:
    """The cadences as run.json has them: by group, or those of `watch` where there are none.

    Args:
        groups: the group of each layer, or None.
        clocks: of each layer; of one group they are equal.
    """
    of = {group: asdict(one) for group, one in zip(groups, clocks, strict=True)}
    if None in of:
        return {name: of[None][name] for name in CADENCES}
    return {"clocks": of}
