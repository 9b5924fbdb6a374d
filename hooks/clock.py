"""Which steps are captured, and which layers at a captured step.

Captured steps follow from the settings alone, never from time, so that runs with equal settings
share them. A budget thins layers: at capture c, layer i is measured when c = i (mod k).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from optgeom.hooks.errors import WatchError


@dataclass(frozen=True, slots=True)
class Clocks:
    """The cadences in steps; `updates_every` 0 means never."""

    every: int
    spectra_every: int
    updates_every: int
    burst: int = 1

    @classmethod
    def of(
        cls, every: int, spectra_every: int | None, updates_every: int | None, burst: int
    ) -> Clocks:
        """Resolve the defaults and refuse cadences that do not fit together.

        Raises:
            WatchError: a cadence is no positive integer, or no multiple of `every`.
        """
        spectra = every if spectra_every is None else spectra_every
        updates = 20 * every if updates_every is None else updates_every
        for name, value, least in (
            ("every", every, 1),
            ("spectra_every", spectra, 1),
            ("updates_every", updates, 0),
            ("burst", burst, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise WatchError(f"{name} must be an integer of at least {least}, got {value!r}")
        for name, value in (("spectra_every", spectra), ("updates_every", updates)):
            if value % every:
                raise WatchError(
                    f"{name} must be a multiple of every={every}, got {value}; "
                    f"the next one is {value - value % every + every}"
                )
        if burst > spectra:
            raise WatchError(f"burst must not exceed spectra_every={spectra}, got {burst}")
        return cls(every, spectra, updates, burst)

    def norms(self, step: int) -> bool:
        """Whether neuron norms and scalars are captured at a step."""
        return step % self.every == 0 or self.spectra(step) or self.updates(step)

    def spectra(self, step: int) -> bool:
        """Whether singular values are captured at a step."""
        return step % self.spectra_every < self.burst

    def updates(self, step: int) -> bool:
        """Whether raw matrices are captured at a step."""
        return self.updates_every > 0 and step % self.updates_every < self.burst

    def settings(self) -> dict[str, int]:
        """The cadences by their names, for run.json."""
        return asdict(self)

    def slower(self) -> Clocks:
        """The same clocks at half the cadence of the norms."""
        every = 2 * self.every
        return replace(
            self,
            every=every,
            spectra_every=every * -(-self.spectra_every // every),
            updates_every=every * -(-self.updates_every // every),
        )


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
    """What one step captures, of which layers (by index), and how many it leaves out."""

    norms: frozenset[int]
    spectra: frozenset[int]
    updates: frozenset[int]
    left_out: int = 0

    @property
    def layers(self) -> frozenset[int]:
        """Every layer that is read at all."""
        return self.norms | self.spectra | self.updates


def plan(clocks: Clocks, step: int, layers: int, thinning: int, *, whole: bool) -> Plan | None:
    """What a step captures; None for a step that captures nothing.

    Args:
        clocks: the cadences.
        step: the recorder's step.
        layers: how many layers there are.
        thinning: k of the budget.
        whole: everything, whatever clocks and budget say.
    """
    everything = frozenset(range(layers))
    if whole:
        return Plan(everything, everything, everything)
    if not clocks.norms(step):
        return None

    due = (
        everything if clocks.spectra(step) else frozenset(),
        everything if clocks.updates(step) else frozenset(),
    )
    captures = step // clocks.spectra_every, step // max(clocks.updates_every, 1)
    spectra, updates = (
        frozenset(i for i in those if chosen(i, capture, thinning))
        for those, capture in zip(due, captures, strict=True)
    )
    left_out = sum(map(len, due)) - len(spectra) - len(updates)
    return Plan(everything, spectra, updates, left_out)


MOST_THINNING = 1 << 16
"""Beyond this, thinning further saves nothing that could be measured."""


@dataclass(slots=True)
class Budget:
    """Turns measured seconds into a thinning and a cadence; changes only toward cheaper.

    Nothing changes while the run so far keeps to its share, since one noisy measurement must not
    cost a whole run its captures; and at most one doubling of each is made per capture.
    """

    share: float | None
    thinning: int = 1

    def decide(
        self,
        clocks: Clocks,
        *,
        achieved: float,
        step_seconds: float,
        norms: float,
        spectra: float,
        updates: float,
    ) -> Clocks:
        """Move one step toward the least thinning that keeps the capture's share of the run.

        Args:
            clocks: as they are.
            achieved: the capture's share of the run so far, background seconds included.
            step_seconds: of an uncaptured step.
            norms: seconds of a capture of all layers' norms.
            spectra: the same for singular values, background seconds included.
            updates: the same for raw matrices.

        Returns:
            The clocks, slower where the norms alone exceed the share.
        """
        if self.share is None or step_seconds <= 0.0 or achieved <= self.share:
            return clocks
        allowed = self.share * step_seconds
        if norms / clocks.every > allowed:
            return clocks.slower()
        room = allowed - norms / clocks.every
        cost = spectra * clocks.burst / clocks.spectra_every
        if clocks.updates_every:
            cost += updates * clocks.burst / clocks.updates_every
        if cost / self.thinning > room and self.thinning < MOST_THINNING:
            self.thinning *= 2
        return clocks
