"""What each part of `make bench` asks, and the lines that answer it from its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limits import LIMITS, Limit
from timing import unbroken

Records = Sequence[Mapping[str, Any]]
Tables = Mapping[str, Records]

NORMS = "optgeom: norms and CV"
BESIDE_NORMS = (
    "by hand: clone, difference, row norms",
    "wandb.watch offline, log=all",
    "TensorBoard histograms",
    "nvdlfw-inspect, gradients",
    "nvdlfw-inspect, gradients and weights",
    "Cockpit, sizes of updates and gradients",
    "Cockpit, economy",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        asked: the question.
        ours: what optgeom takes or gives.
        peer: who else was asked.
        theirs: what they take or give.
        ratio: ours over theirs, or whatever the limit speaks of.
        limit: what it is held against.
        found: the number that is held against it.
        within: the 95 % interval of that number, where there is one.
    """

    asked: str
    ours: str
    peer: str = ""
    theirs: str = ""
    ratio: str = ""
    limit: Limit | None = None
    found: float | None = None
    within: tuple[float, float] | None = None

    def cells(self, *, quick: bool) -> dict[str, str]:
        """As printed; tiny sizes are held against nothing."""
        kept = ""
        if self.limit is not None and self.found is not None:
            ends = [self.limit.keeps(end) for end in self.within or (self.found, self.found)]
            kept = "kept" if all(ends) else "not resolved" if any(ends) else "**missed**"
        return {
            "asked": self.asked,
            "ours": self.ours,
            "beside": self.peer,
            "theirs": self.theirs,
            "ours / theirs": self.ratio,
            "limit": "" if self.limit is None else str(self.limit),
            "": "not judged" if quick and kept else kept,
        }


def failed(record: Mapping[str, Any]) -> str | None:
    """Why a case failed, or None."""
    said = [v for v in record.values() if isinstance(v, str) and "failed: " in v]
    return said[0].partition("failed: ")[2] if said else None


def safe(text: str) -> str:
    """In a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _interval(value: Mapping[str, float], spec: str) -> str:
    return unbroken(f"{value['median']:{spec}} [{value['low']:{spec}}, {value['high']:{spec}}]")


def _ends(value: Mapping[str, float]) -> tuple[float, float]:
    return value["low"], value["high"]


def _over(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}" if ours > 0 and theirs > 0 else "no ratio: not above 0"


# -- the parts: what each asks ---------------------------------------------------------------------


def _one(records: Records, **wanted: str) -> Mapping[str, Any] | None:
    names = {key.replace("_", " "): value for key, value in wanted.items()}
    return next((r for r in records if all(r.get(k) == v for k, v in names.items())), None)


def _steps(tables: Tables) -> Iterator[Row]:
    for one in tables["steps"]:
        asked = f"norms of every matrix at a captured step, {one['optimizer']}"
        if said := failed(one):
            yield Row(asked, f"failed: {safe(said)}")
            continue
        limit = LIMITS[f"step, {one['optimizer']}"]
        added = one["added"]
        ours = f"{_interval(added, '.1f')} % of a step"
        yield Row(asked, ours, limit=limit, found=added["median"], within=_ends(added))


def pair(one: Mapping[str, Any], what: str = "median") -> float:
    """Per cent of an unwatched step that a captured one and the next take more together.

    `added` is over an uncaptured step of the watched run, and that one by `beside` over an
    unwatched one. Where nothing works in the background, nothing is left for the next step, and
    what it differs by is the machine's drift: `added` alone.
    """
    if one["background"] < NOTHING:
        return float(one["added"][what])
    added, beside = one["added"][what] / 100, one["beside"][what] / 100
    return float(100 * ((1 + beside) * (2 + added) - 2))


NOTHING = 0.1
"""Per cent of a step in the background that is none."""

QUIET = 5.0
"""Per cent by which the uncaptured steps of a watched run may differ from unwatched ones for a
captured step's share to be compared: where they differ by more, and not by chance alone, cost has
moved there, or the machine drifted."""


@dataclass(frozen=True, slots=True)
class _Cost:
    """A median, its interval, both in words; how steps beside differ: -1 less, 0 not, 1 more."""

    median: float
    within: tuple[float, float]
    text: str
    beside: int = 0

    def over(self, other: _Cost) -> str:
        """Their ratio, where neither may as well be nothing, nor ours be paid in steps beside."""
        if min(*self.within, *other.within) <= 0:
            return "one may be 0"
        if self.beside or other.beside < 0:
            return "none: the steps beside differ"
        ratio = _over(self.median, other.median)
        return f"at most {ratio}" if other.beside else ratio


def _instruments(tables: Tables) -> Iterator[Row]:
    steps = [*tables["steps"], *tables["peers"]]

    def by_added(one: Mapping[str, Any]) -> _Cost:
        added, beside = one["added"], one["beside"]
        low, high = _ends(beside)
        seen = _interval(beside, "+.1f") if low < high else f"{beside['median']:+.1f}"
        text = f"{_interval(added, '.1f')} %, steps beside {seen}"
        text += f", background {one['background']:.1f}"
        differs = abs(beside["median"]) >= QUIET and not low <= 0 <= high
        return _Cost(added["median"], _ends(added), text, differs * (1 if low > 0 else -1))

    def by_pair(one: Mapping[str, Any]) -> _Cost:
        low, median, high = (pair(one, end) for end in ("low", "median", "high"))
        text = f"{_interval({'low': low, 'median': median, 'high': high}, '.1f')} %"
        return _Cost(median, (low, high), f"{text}, background {one['background']:.1f}")

    yield from _beside(
        steps, "norms of every matrix at a captured step, adamw", NORMS, BESIDE_NORMS, by_added
    )
    yield from _beside(
        steps,
        "spectra of every matrix, a captured step and the next, adamw",
        "optgeom: norms and spectra",
        ("by hand: all spectra on the training thread",),
        by_pair,
    )
    yield from _beside(
        steps,
        "raw matrices of every matrix, a captured step and the next, adamw",
        "optgeom: raw matrices",
        ("by hand: torch.save of every update", "by hand: safetensors of every update"),
        by_pair,
        LIMITS["step, raw"],
    )


def _beside(
    steps: Records,
    asked: str,
    mine: str,
    others: Sequence[str],
    cost: Callable[[Mapping[str, Any]], _Cost],
    limit: Limit | None = None,
) -> Iterator[Row]:
    found = {one["what"]: one for one in steps}

    def told(name: str) -> _Cost | str:
        if name not in found:
            return "not measured"
        said = failed(found[name])
        return f"failed: {safe(said)}" if said else cost(found[name])

    ours = told(mine)
    for other in others:
        theirs = told(other)
        if isinstance(ours, str):
            yield Row(asked, ours, other, theirs if isinstance(theirs, str) else theirs.text)
            continue
        held, within = (ours.median, ours.within) if limit else (None, None)
        if isinstance(theirs, str):
            yield Row(asked, ours.text, other, theirs, limit=limit, found=held, within=within)
        else:
            ratio = ours.over(theirs)
            yield Row(asked, ours.text, other, theirs.text, ratio, limit, held, within)


def _run(tables: Tables) -> Iterator[Row]:
    for one in tables["runs"]:
        asked = f"share of a run at the default settings, {one['optimizer']}"
        if said := failed(one):
            yield Row(asked, f"failed: {safe(said)}")
            continue
        wall, counted, recorded = one["wall"], one["counted"], one["recorded"]
        ours = f"{_interval(wall, '.2f')} % by the wall, {counted:.2f} counted"
        worst = max(wall["median"], counted)
        within = max(wall["low"], counted), max(wall["high"], counted)
        yield Row(asked, ours, limit=LIMITS["run, time"], found=worst, within=within)
        budget = LIMITS["run, budget"]
        yield Row(
            "the share that the run itself records, beside its budget",
            f"{recorded:.2f} %",
            "the budget",
            f"{budget.value:g} %",
            _over(recorded, budget.value),
            budget,
            recorded,
        )
        yield Row(
            "spectra for the budget",
            f"{one['of_affordable']:.0f} % of what it buys",
            limit=LIMITS["run, bought"],
            found=one["of_affordable"],
        )
        yield Row(
            "longest wait of a layer for its spectrum",
            f"{one['longest_wait']} steps",
            "the mean wait",
            f"{one['mean_wait']:.0f} steps",
            _over(one["longest_wait"], one["mean_wait"]),
            LIMITS["run, waits"],
            one["longest_wait"] / one["mean_wait"],
        )


def _memory(tables: Tables) -> Iterator[Row]:
    rows = tables["memory"]
    for name in (key for key in rows[0] if key.endswith(" M")):
        for method in ("norms", "norms, spectra"):
            for ours in (row for row in rows if row["captured"] == method):
                theirs = _one(rows, optimizer=ours["optimizer"], captured="snapshot")
                asked = f"peak extra memory of {method}, {name[:-2]} M parameters"
                a, b = ours[name], theirs[name] if theirs else "not measured"
                text = [v if isinstance(v, str) else f"{v:.0f} MiB" for v in (a, b)]
                if isinstance(a, str) or isinstance(b, str):
                    yield Row(asked, safe(text[0]), "a snapshot", safe(text[1]))
                else:
                    limit = LIMITS["memory"]
                    ratio = _over(a, b)
                    yield Row(asked, text[0], "a snapshot", text[1], ratio, limit, a / b)


def _writer(tables: Tables) -> Iterator[Row]:
    found = {row[""]: row for row in tables["throughput"]}
    ours = f"{_interval(found['optgeom']['MB/s'], '.0f')} MB/s"
    for name, row in found.items():
        if name != "optgeom":
            theirs = f"{_interval(row['MB/s'], '.0f')} MB/s"
            ratio = f"{_interval(row[OVER], '.2f')} of the time"
            yield Row("writing raw matrices, fsync included", ours, name, theirs, ratio)
    (late,) = tables["latency"]
    text = f"median {late['median, us']:.0f} us, longest {late['longest, us']:.0f}"
    asked = "handing over a matrix while others are written"
    yield Row(asked, text, limit=LIMITS["submit"], found=late["longest, us"])
    for row in tables["reading"]:
        (asked,) = (value for key, value in row.items() if key.startswith("milli"))
        yield Row(asked, f"{row['']['median']:.1f} ms, longest {row['']['longest']:.1f}")
    ((asked, took),) = tables["scalars"][0].items()
    asked = f"reading {asked.removesuffix(', ms')}"
    yield Row(asked, f"{took['median']:.0f} ms, longest {took['longest']:.0f}")


OVER = "optgeom's time over it"


def _analysis(tables: Tables) -> Iterator[Row]:
    for row in tables["Over the bare LAPACK calls"]:
        limit, over = LIMITS[f"analysis, {row['what'].removesuffix(' alone')}"], row[_FASTER]
        bare = min(row["numpy Gram + eigvalsh, s"], row["torch the same, s"])
        yield Row(
            f"analyzing raw matrices: {row['what']}, {row['matrices']} matrices",
            f"{row[_TOOK]:.2f} s",
            "the same Gram matrices and eigvalsh, bare",
            f"{bare:.2f} s",
            _interval(over, ".2f"),
            limit,
            over["median"],
            _ends(over),
        )
    found = tables["Beside others"]
    for row in found:
        name = row["beside"].partition(":")[0]
        asked = f"analyzing raw matrices: {row['beside'].partition(': ')[2]}"
        if said := failed(row):
            yield Row(asked.partition(": failed")[0], "", name, f"failed: {safe(said)}")
            continue
        over = row["theirs over ours"]
        limit = LIMITS["svdvals" if "svdvals" in name else "WeightWatcher"]
        yield Row(
            asked,
            f"{row[_TOOK]:.2f} s",
            name,
            f"{row['theirs, s']:.2f} s",
            f"{1 / over['median']:.2f}; theirs / ours {_interval(over, '.2f')}",
            limit,
            over["median"],
            _ends(over),
        )


_TOOK, _FASTER = "optgeom.analyze, s", "over the faster"


def _optimizers(tables: Tables) -> Iterator[Row]:
    cases = dict.fromkeys((row["shapes"], row["ranks"]) for row in tables["steps"])
    for shapes, ranks in cases:
        rows = [row for row in tables["steps"] if (row["shapes"], row["ranks"]) == (shapes, ranks)]
        width = "768" if shapes == "768" else "128"
        at = f"width {width}, {ranks} rank{'s' * (ranks != '1')}"
        if said := next(filter(None, map(failed, rows)), None):
            yield Row(f"an optimizer step, {at}", f"failed: {safe(said)}")
            continue
        by = {row["optimizer"]: row for row in rows}
        ours, over = by["normuon"], by["normuon"]["times Muon's"]
        text = f"{ours['step, ms']:.1f} ms"
        limit = LIMITS["normuon, 768"] if width == "768" else None
        yield Row(
            f"a step of NorMuon, {at}",
            text,
            "Muon (ours)",
            f"{by['muon']['step, ms']:.1f} ms",
            _interval(over, ".2f"),
            limit,
            over["median"],
            _ends(over),
        )
        naive = by["normuon, naive"]
        if ranks != "1":
            faster = naive["times Muon's"]["median"] / over["median"]
            limit = LIMITS["dealt"] if width == "768" and ranks == "2" else None
            yield Row(
                f"a step of NorMuon, dealt, {at}",
                text,
                "every rank gathers everything",
                f"{naive['step, ms']:.1f} ms",
                f"{1 / faster:.2f}; theirs / ours {faster:.2f}",
                limit,
                faster,
            )
        state = [by[name]["state, numbers per weight"] for name in ("normuon", "adamw")]
        if ranks == "1":
            yield Row(
                f"NorMuon's state, width {width}",
                f"{state[0]:.3f} numbers a weight",
                "AdamW",
                f"{state[1]:.3f}",
                f"{state[0] / state[1]:.3f}",
                LIMITS["state"] if width == "128" else None,
                state[0] / state[1],
            )


def _sharded(tables: Tables) -> Iterator[Row]:
    said = {row["on two ranks of FSDP2"]: row["said"] for row in tables["said"]}
    ours = safe(said.pop("optgeom.watch"))
    for name, what in said.items():
        yield Row("a model under FSDP2, two ranks", ours, name, safe(what))


def _kernels(tables: Tables) -> Iterator[Row]:
    for name, base in (("norms", "one read"), ("spectra", "bare kernel")):
        rows = {row["kernel"]: row for row in tables[name]}
        mine = {"norms": "norms_pass", "spectra": "measure_spectrum"}[name]
        yield Row(
            f"the kernel alone: {mine} of every matrix, job small",
            f"{rows[mine]['ms']:.1f} ms",
            base,
            f"{rows[base]['ms']:.1f} ms",
            f"{rows[mine][f'x {base}']:.2f}",
        )


def _background(tables: Tables) -> Iterator[Row]:
    rows = {row["state"]: row for row in tables["states"]}
    for peer, name in (("nobody", "alone"), ("a thread with a team of its own", "team")):
        yield Row(
            "a training step while the capture's thread only waits",
            f"{rows['one core']['ms']:.1f} ms",
            peer,
            f"{rows[name]['ms']:.1f} ms",
            f"{rows['one core']['ms'] / rows[name]['ms']:.2f}",
        )


def _dashboard(tables: Tables) -> Iterator[Row]:
    (everything,) = (row for row in tables["times"] if row["page"] == "all")
    for name in ("median", "p95"):
        found = everything[f"{name}, ms"]
        asked = f"the dashboard on 8 large runs, an interaction drawn, {name}"
        yield Row(asked, f"{found:.0f} ms", limit=LIMITS[f"dashboard, {name}"], found=found)


ASKED: Mapping[str, tuple[str, Callable[[Tables], Iterator[Row]]]] = {
    "steps": ("norms of every matrix at a captured step", _steps),
    "muon": ("norms of every matrix at a captured step, torch's Muon", _steps),
    "instruments": ("a captured step, beside other instruments", _instruments),
    "run": ("share of a run at the default settings", _run),
    "memory": ("peak extra memory of a captured step", _memory),
    "writer": ("writing and reading raw matrices and scalars", _writer),
    "analysis": ("analyzing raw matrices", _analysis),
    "optimizers": ("optimizer steps on ranks", _optimizers),
    "sharded": ("a model under FSDP2, two ranks", _sharded),
    "kernels": ("the kernels alone", _kernels),
    "background": ("a training step while a thread waits", _background),
    "dashboard": ("the dashboard on 8 large runs", _dashboard),
}
"""What is asked by each part in a few words, and its lines."""
