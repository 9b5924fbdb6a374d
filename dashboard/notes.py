"""The note beside a figure's title: which runs are shown late, and which not at all, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optgeom.figures.formats import whole
from optgeom.figures.names import run_short
from optgeom.figures.reading import Missing
from optgeom.figures.sorted_norms import NeuronNormsInfo
from optgeom.figures.spectra import SpectrumInfo


def notes(
    runs: Sequence[str],
    captured: Mapping[str, int],
    step: int | None,
    missing: Sequence[Missing] = (),
) -> str:
    """Say which runs are shown from an earlier capture, and which not at all.

    Args:
        runs: the shown runs.
        captured: per drawn run the step it is drawn of.
        step: the step looked at.
        missing: what the figure lacks; its short words are used where it has any.

    >>> notes(("muon", "normuon", "adamw"), {"muon": 390, "normuon": 400}, 400)
    'Muon: step 390 · AdamW: not captured'
    """
    said = []
    for run in runs:
        words = [one.brief for one in missing if one.run == run and one.brief]
        if run not in captured:
            # One reason is enough: a second one would break the title's line in two.
            words = words[:1] or ["not captured"]
        elif captured[run] != step:
            words.insert(0, f"step {whole(captured[run])}")
        if words:
            said.append(f"{run_short(run)}: {', '.join(words)}")
    return " \N{MIDDLE DOT} ".join(said)


def notes_of(
    what: NeuronNormsInfo | SpectrumInfo, runs: Sequence[str], *, stage: str, step: int | None
) -> str:
    """Return the note of a panel; empty where the figure itself says that it has nothing."""
    if not what.curves:
        return ""
    late = {
        curve.run: curve.step for curve in what.curves if getattr(curve, "stage", stage) == stage
    }
    return notes(runs, late, step, what.missing)
