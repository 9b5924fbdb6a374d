"""The table of `make bench`, from what its parts measured. Nothing is measured here.

A row answers one question: ours, one peer's for the same thing, their ratio, and the limit that
limits.py sets. What is held against a limit is the median's interval, where there is one: with the
limit inside it, the verdict is "not resolved".
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from parts import PARTS
from questions import ASKED, Row, failed, safe
from timing import table

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def summary(results: Mapping[str, Any]) -> str:
    """The whole text that stands between the markers.

    Args:
        results: what `bench.py` wrote of each part, by name.
    """
    if not results:
        return "Nothing has been measured: `make bench`."
    lines = []
    if any(one["quick"] for one in results.values()):
        lines += [
            "**Of `--quick`: tiny sizes and one thread, to show that a part runs. These numbers "
            "say nothing of speed, and are held against no limit.**\n"
            if all(one["quick"] for one in results.values())
            else "**Parts marked `--quick` below had tiny sizes: their numbers say nothing.**\n"
        ]
    lines += [table([row for name, one in results.items() for row in rows_of(name, one)]), ""]
    absent = [f"{name}{_lacks(name)}" for name in PARTS if name not in results]
    if absent:
        lines += [f"Not measured: {', '.join(absent)} (`--only NAME`).", ""]
    lines += [table([measured(name, one) for name, one in results.items()]), ""]
    lines += [*dict.fromkeys(f"On {where(one)}." for one in results.values())]
    tools = {k: v for one in results.values() for k, v in one["tools"].items()}
    if tools:
        lines += [f"The peers: {', '.join(f'{k} {v}' for k, v in tools.items())}."]
    lines += ["", "Limits, and what sets them:", "", table(_limits(results))]
    return "\n".join(lines)


def put(text: str, page: str) -> str:
    """A page with the text between its markers.

    Raises:
        ValueError: the page lacks a marker.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} before {END}: put both lines into it")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def failures(results: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Of the parts that were asked for: those that failed, and the cases in others that did."""
    found = []
    for name in names:
        one = results[name]
        if one["failed"]:
            found.append(f"{name}: {one['failed']}")
            continue
        for rows in one["result"]["tables"].values():
            found += [f"{name}: {said}" for row in rows if (said := failed(row))]
    return found


def rows_of(name: str, one: Mapping[str, Any]) -> list[dict[str, str]]:
    """The lines of a part; a single one where it failed."""
    if one["failed"]:
        found = [Row(ASKED[name][0], f"failed: {safe(one['failed'])}")]
    else:
        found = list(ASKED[name][1](one["result"]["tables"]))
    return [row.cells(quick=one["quick"]) for row in found]


def measured(name: str, one: Mapping[str, Any]) -> dict[str, str]:
    """When and on what commit a part ran, and how fast the machine was meanwhile."""
    machine = (one["result"] or one)["machine"]
    gflops = (one["result"] or {}).get("gflops")
    speed = (
        f"{statistics.median(gflops):.0f}, {min(gflops):.0f} to {max(gflops):.0f}" if gflops else ""
    )
    words = PARTS[name].quick if one["quick"] else PARTS[name].full
    return {
        "part": f"{name} (`--quick`)" if one["quick"] else name,
        "command": f"`{PARTS[name].script} {' '.join(_quoted(words))}`".replace(" `", "`"),
        "date, UTC": machine["date"],
        "commit": machine["commit"],
        "load": f"{machine['load']:.1f}",
        "calibration, GFLOP/s": speed,
        "took, s": f"{one['seconds']:.0f}",
    }


def where(one: Mapping[str, Any]) -> str:
    """The machine and its versions."""
    machine = (one["result"] or one)["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']} ({machine['instructions']}), {machine['cores']} cores, "
        f"{machine['threads']} torch threads, our Newton-Schulz in {machine['ns_dtype']}; "
        f"Python {machine['python']}, {versions}"
    )


def _lacks(name: str) -> str:
    return f" ({PARTS[name].needs})" if PARTS[name].needs else ""


def _limits(results: Mapping[str, Any]) -> list[dict[str, str]]:
    used = [
        row.limit
        for name, one in results.items()
        if not one["failed"]
        for row in ASKED[name][1](one["result"]["tables"])
        if row.limit is not None
    ]
    return [{"limit": str(limit), "set by": limit.source} for limit in dict.fromkeys(used)] or [
        {"limit": "", "set by": "none was asked about"}
    ]


def _quoted(words: Sequence[str]) -> list[str]:
    return [f"'{word}'" if " " in word else word for word in words]
