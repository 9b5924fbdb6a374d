"""Which way each parameter is read, as far as the captures so far have shown.

Operations are read where they are seen. An optimizer that hands its updates over is taken at its
word. A fused step is read from its state where a formula is known; any other that shows no
operation from a difference. Whatever the way, sampled weights have to agree; where they do not,
it is left.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optgeom.hooks.formulas import formula_of
from optgeom.hooks.layers import Layer
from optgeom.hooks.observe import Entry
from optgeom.hooks.slot import Expected, Slot
from optgeom.hooks.spectral import SPECTRAL, WITH_VECTORS, names_any
from optgeom.hooks.targets import Target

logger = logging.getLogger("optgeom.hooks.capture")

UNSEEN = "a write that shows no operation"
SINGULAR_VALUES = "singular values alone, whose bits a dispatch mode changes"


@dataclass(frozen=True, slots=True)
class _Calls:
    """How an optimizer writes to its weights under certain settings, by target."""

    settings: tuple[Mapping[str, Any], ...]
    expected: Mapping[int, Expected]


class Ways:
    """The way of every target; asked at the beginning of a captured step, told at its end."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        """Begin with every target read from operations.

        Args:
            layers: that are captured, for what is said of them.
        """
        self._layers = layers
        self._unseen: set[int] = set()
        self._no_formula: set[int] = set()
        self._done_at_once: set[int] = set()
        self._returned: set[int] = set()
        self._explained: set[int] = set()
        self._spectral: dict[int, bool] = {}
        self._by_tap: dict[int, bool] = {}
        self._by_calls: dict[int, _Calls] = {}
        self._no_calls: set[int] = set()

    def slot(
        self,
        target: Target,
        optimizer: Any,
        entry: Entry,
        *,
        expected: Expected | None,
        keep: bool,
    ) -> Slot:
        """Begin a captured step for a target.

        Args:
            target: whose step it is.
            optimizer: about to step.
            entry: its group's settings.
            expected: how it will be written to, where only calls are looked at.
            keep: the weights before the step are recorded themselves.
        """
        slot = Slot.of(target.parameter, target.index)
        slot.early = target.index in self._done_at_once
        slot.late = target.index in self._returned
        slot.expected = expected
        if keep:
            slot.kept = slot.weights.clone()
        group = optimizer.param_groups[target.group]
        if group.get("fused") or target.index in self._unseen:
            if target.index not in self._no_formula:
                slot.formula = formula_of(
                    optimizer,
                    target.parameter,
                    group,
                    divisor=entry.lr,
                    scaled=entry.loss_scale != 1.0,
                )
            if slot.formula is None:
                slot.fold.interrupt(UNSEEN, slot.weights)
        elif self._is_spectral(optimizer):
            slot.fold.interrupt(SINGULAR_VALUES, slot.weights)
        return slot

    def by_mode(self, optimizer: Any, slots: Sequence[Slot], *, scaled: bool) -> bool:
        """Whether operations have to be seen at all.

        Args:
            optimizer: about to step.
            slots: its own.
            scaled: whether it takes a loss scale out of the gradients, which writes to them.
        """
        if self._is_spectral(optimizer) or self._by_tap.get(id(optimizer), False):
            return False
        if any(slot.expected is not None for slot in slots):
            return False
        return scaled or any(slot.formula is None for slot in slots)

    def takes_updates(self, optimizer: Any) -> bool:
        """Whether updates that an optimizer hands over are believed."""
        return self._by_tap.get(id(optimizer), True)

    def expected(self, optimizer: Any, targets: Sequence[Target]) -> Mapping[int, Expected]:
        """How targets will be written to, if calls of their own methods are all there is to see.

        Under other settings, such as another weight decay, what is added may be made otherwise.
        """
        known = self._by_calls.get(id(optimizer))
        if known is None or known.settings != _settings(optimizer):
            return {}
        whole = all(target.index in known.expected for target in targets)
        return known.expected if whole else {}

    def _is_spectral(self, optimizer: Any) -> bool:
        if id(optimizer) not in self._spectral:
            self._spectral[id(optimizer)] = names_any(optimizer, SPECTRAL)
        return self._spectral[id(optimizer)]

    def saw_svd(self, optimizer: Any) -> None:
        """An optimizer decomposed something: without the vectors, its bits may have changed."""
        self._spectral[id(optimizer)] = not names_any(optimizer, WITH_VECTORS)

    def learn(self, target: Target, optimizer: Any, slot: Slot, *, mismatch: bool) -> None:
        """Note how a captured step went.

        Args:
            target: whose step it was.
            optimizer: that made it.
            slot: of this rank.
            mismatch: whether samples of any rank disagreed.
        """
        self._explain(target, slot.fold.opaque)
        if slot.source == "dispatch" and target.index not in self._returned:
            self._done_at_once.add(target.index)
        if not mismatch:
            return
        self._returned.add(target.index)
        self._done_at_once.discard(target.index)
        if slot.source == "tap" or self._by_tap.get(id(optimizer), False):
            self._by_tap[id(optimizer)] = False
        elif slot.formula is not None:
            self._no_formula.add(target.index)
        elif not slot.rewritten:
            self._unseen.add(target.index)

    def learn_order(self, targets: Sequence[Target], slots: Sequence[Slot]) -> None:
        """An optimizer that came back to one parameter may come back to all of them."""
        if any(slot.returned or slot.rewritten for slot in slots):
            self._returned |= {target.index for target in targets}
            self._done_at_once -= self._returned

    def learn_taps(self, optimizer: Any, slots: Sequence[Slot]) -> None:
        """Without the mode from now on, if an optimizer handed every update over by itself.

        One that overwrites gradients is still watched while it does.
        """
        if id(optimizer) in self._by_tap or not slots:
            return
        if all(slot.by_tap and not slot.gradient_lost for slot in slots):
            self._by_tap[id(optimizer)] = True

    def learn_calls(
        self, optimizer: Any, targets: Sequence[Target], slots: Sequence[Slot], *, wrong: bool
    ) -> None:
        """Without the mode from now on, if every weight was written to by calls of its methods.

        Gradients that the step overwrites, and what it adds in several parts, have to be watched.
        Only torch's own optimizers are known to go on as they began: others look ahead every few
        steps, warm up, or refresh a basis.
        """
        if not f"{type(optimizer).__module__}.".startswith("torch.optim."):
            return
        if any(slot.expected is not None for slot in slots):
            same = all(s.expected and tuple(s.fold.history) == s.expected.history for s in slots)
            if wrong or not same:
                del self._by_calls[id(optimizer)]
                self._no_calls.add(id(optimizer))
            return
        found = {
            target.index: Expected(tuple(slot.fold.history), slot.fold.origin)
            for target, slot in zip(targets, slots, strict=True)
            if slot.source == "dispatch"
            and slot.calls == slot.fold.operations
            and not (slot.gradient_lost or slot.returned or slot.rewritten)
        }
        clean = all(one.is_one_term for one in found.values())
        if not clean or wrong or len(found) < len(slots) or id(optimizer) in self._no_calls:
            return
        settings, known = _settings(optimizer), self._by_calls.get(id(optimizer))
        if known is not None and known.settings == settings:
            found = {**known.expected, **found}
        self._by_calls[id(optimizer)] = _Calls(settings, found)

    def _explain(self, target: Target, opaque: str | None) -> None:
        """Once per layer: which operation was not understood, so that a difference was read."""
        if opaque is None or target.index in self._explained:
            return
        self._explained.add(target.index)
        for place in target.layers:
            logger.debug("layer %s is read by difference: %s", self._layers[place].name, opaque)


def _settings(optimizer: Any) -> tuple[Mapping[str, Any], ...]:
    """Plain settings of every group that may change what is added to the weights."""
    return tuple(
        {
            name: value
            for name, value in group.items()
            if name != "lr" and isinstance(value, (bool, int, float, str, tuple, type(None)))
        }
        for group in optimizer.param_groups
    )
