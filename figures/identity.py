"""Which colour belongs to which run, decided once for a folder of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from optgeom.figures.names import run_label

if TYPE_CHECKING:
    from optgeom.traces.store import Trace

RESERVED = {"normuon": 0, "muon": 1, "adamw": 2}


def algorithm(trace: Trace) -> str:
    """Return the rule that moves a run's hidden matrices, in lower case.

    A NorMuon run moves its embeddings by AdamW too; what its blocks do names it.
    """
    inside = [layer.algorithm for layer in trace.layers if layer.block is not None]
    named = [name for name in inside if name] or [
        layer.algorithm for layer in trace.layers if layer.algorithm
    ]
    if named:
        return Counter(named).most_common(1)[0][0].lower()
    types = [optimizer.type.rpartition(".")[2].lower() for optimizer in trace.info.optimizers]
    return types[0] if types else ""


def slots(algorithms: Mapping[str, str]) -> dict[str, int]:
    """Return a colour slot per run, given each run's algorithm.

    The first run of an optimizer has its reserved colour; every further one takes the next free
    slot. Slots past the sixth are drawn grey.

    >>> slots({"a": "muon", "b": "normuon", "c": "muon", "d": "lion"})
    {'a': 1, 'b': 0, 'c': 3, 'd': 4}
    """
    found: dict[str, int] = {}
    taken: set[int] = set()
    for run, name in algorithms.items():
        slot = RESERVED.get(name)
        if slot is not None and slot not in taken:
            found[run] = slot
            taken.add(slot)
    # Colours reserved for an absent optimizer come last, so that its later arrival moves nobody.
    free = iter([3, 4, 5])
    grey = iter(range(6, 6 + len(algorithms)))
    for run in algorithms:
        if run not in found:
            found[run] = next(free, None) or next(grey)
    return {run: found[run] for run in algorithms}


def run_slots(traces: Iterable[Trace]) -> dict[str, int]:
    """Return a colour slot for each run of a folder; trained runs choose before computed ones."""
    ranked = sorted(traces, key=is_computed)
    return slots({trace.name: algorithm(trace) for trace in ranked})


def is_computed(trace: Trace) -> bool:
    """Return whether a trace was computed from another run's, and never trained."""
    return bool(trace.info.computed)


def titled(trace: Trace) -> str:
    """Return a run's name with the word that marks a computed one, where only text can stand."""
    return f"{run_label(trace.name)} (computed)" if is_computed(trace) else run_label(trace.name)


def computed_from(trace: Trace) -> str:
    """Return the name of the run that a trace was computed from; "" for a trained one."""
    return str(trace.info.computed.get("from", "")) if is_computed(trace) else ""
