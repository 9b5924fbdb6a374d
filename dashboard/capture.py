"""What capture cost and how a run was made: the tables of the Runs page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from optgeom.figures.formats import number, whole
from optgeom.figures.losses import scalar

if TYPE_CHECKING:
    from optgeom.traces.store import Trace

# A group's members, not its settings: the layers are listed elsewhere, thousands of them too.
_LISTS = ("params", "param_names")
LATER = "\N{EM DASH}"
NOT_ITS = ""
"""A setting of the training, which a computed run had none of."""
COMPUTED = "computed \N{MIDDLE DOT} "


LEFT_OUT = {"budget": False, "queue": True, "writer": True}
"""Why rows were left out, as the recorder names it, and whether its number is a running total."""


MOMENTS = {
    "recorded": "the run's own",
    "start": "exact since the run's first step",
    "burst": "from consecutive steps",
    "short": "not known",
}
"""What a computed run's second moment rests on."""


class Row(NamedTuple):
    """One setting: its name and its written value per run."""

    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs disagree; a setting that a computed run cannot have is no matter."""
        return len(set(self.values) - {NOT_ITS}) > 1


def configuration(traces: Sequence[Trace]) -> tuple[Row, ...]:
    """Return every setting of these runs, one row per name, in the order of first appearance.

    Args:
        traces: the runs, one column each.
    """
    each = [_settings(trace) for trace in traces]
    names = dict.fromkeys(name for settings in each for name in settings)
    ordered = sorted(names, key=lambda name: not name.startswith(COMPUTED))
    lacking = [NOT_ITS if trace.info.computed else LATER for trace in traces]
    return tuple(
        Row(name, tuple(one.get(name, none) for one, none in zip(each, lacking, strict=True)))
        for name in ordered
    )


def _settings(trace: Trace) -> dict[str, str]:
    info = trace.info
    found: dict[str, Any] = _computed(info.computed)
    for optimizer in info.optimizers:
        prefix = "optimizer" if len(info.optimizers) == 1 else f"optimizer {optimizer.name}"
        found[prefix] = optimizer.type.rpartition(".")[2]
        for place, group in enumerate(optimizer.groups):
            for key, value in group.items():
                if key not in _LISTS:
                    found[f"group {place} · {key}"] = value
    found |= {f"config · {key}": value for key, value in _flat(info.config).items()}
    found |= {f"capture · {key}": value for key, value in info.capture.items()}
    found |= {f"version · {key}": value for key, value in info.versions.items()}
    found["processes"] = info.world_size
    found["command"] = " ".join(info.command)
    return {name: _written(value) for name, value in found.items()}


def _computed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a computed run was made of, and how."""
    told: dict[str, Any] = {
        f"{COMPUTED}{key}": entry[key] for key in ("from", "rule", "what", "source") if key in entry
    }
    for key in ("input", "caveats"):
        if entry.get(key):
            each = [f"{what} ({whole(count)} layers)" for what, count in entry[key].items()]
            told[f"{COMPUTED}{key}"] = "; ".join(each)
    moment = entry.get("second_moment")
    if moment:
        each = [
            f"{MOMENTS.get(how, how)} in {whole(count)} cells"
            for how, count in moment.items()
            if how != "steps_needed"
        ]
        told[f"{COMPUTED}second moment"] = "; ".join(each)
    return told


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _written(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return whole(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and not any(isinstance(one, (list, dict)) for one in value):
        return ", ".join(_written(one) for one in value) or "none"
    return json.dumps(value, default=str, ensure_ascii=False)


def cost(traces: Sequence[Trace]) -> tuple[Row, ...]:
    """Return what capture cost each run and where its updates were read.

    Args:
        traces: the runs, one column each.
    """
    columns = [_cost(trace) for trace in traces]
    return (
        tuple(Row(name, tuple(column[name] for column in columns)) for name in columns[0])
        if (columns)
        else ()
    )


def _cost(trace: Trace) -> dict[str, str]:
    capture = scalar(trace, "capture_seconds")[1]
    share = scalar(trace, "capture_share")[1]
    spent = float(np.nansum(capture))
    last = trace.last_step
    return {
        "last step": LATER if last is None else whole(int(last)),
        "state": _state(trace),
        "captured layers": whole(len(trace.layers)),
        "capture time": f"{number(spent)} s" if capture.size else LATER,
        "share of the run": f"{number(100 * share[-1], digits=2)} %" if share.size else LATER,
        "size": _bytes(trace.size_bytes),
        "update read from": _sources(trace),
        "rows left out": _dropped(trace),
    }


def _state(trace: Trace) -> str:
    attempts = trace.info.attempts
    if attempts and attempts[-1].failed:
        said = [f"failed: {attempts[-1].failed}"]
    else:
        ended = "computed" if trace.info.computed else "ended"
        said = [ended if trace.closed else ("running" if trace.is_live else "not closed")]
    stopped = scalar(trace, "capture_stopped")[0]
    if stopped.size:
        said.append(f"capture stopped at step {whole(int(stopped[-1]))}")
    said += [
        f"failed in attempt {one.attempt}: {one.failed}" for one in attempts[:-1] if one.failed
    ]
    return " \N{MIDDLE DOT} ".join(said)


def _bytes(size: int) -> str:
    return f"{number(size / 1e6)} MB"


def _sources(trace: Trace) -> str:
    if "update" not in trace.stages:
        return LATER
    return ", ".join(one for one in trace.words("source", "update").words if one) or LATER


def _dropped(trace: Trace) -> str:
    left = {name: scalar(trace, f"rows_left_out.{name}")[1] for name in LEFT_OUT}
    if not any(values.size for values in left.values()):
        return LATER
    counts = {name: _total(values, running=LEFT_OUT[name]) for name, values in left.items()}
    written = [f"{name} {whole(count)}" for name, count in counts.items() if count]
    return ", ".join(written) or "none"


def _total(values: np.ndarray[tuple[int], np.dtype[np.float64]], *, running: bool) -> int:
    if not values.size:
        return 0
    if not running:
        return round(float(np.nansum(values)))
    # A running total starts again at zero with every resumed attempt: each one's last counts.
    ends = np.append(values[:-1][np.diff(values) < 0], values[-1])
    return round(float(np.nansum(ends)))
