"""The dashboard on a large folder, in a real browser: time to look, size of answers, memory.

A folder of 8 runs x 200 layers x 2,000 captured steps is written by big_runs.py. The page is served
by ``optgeom dashboard`` in a process of its own and opened in Chromium. What is measured and how:
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from big_runs import write_big
from playwright.sync_api import BrowserContext, Page, Response, sync_playwright
from timing import Interval, Number, json_option, machine, table, write_json

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
QUIET_MS = 250
"""A page that has changed nothing for this long has been drawn."""
LIMIT_MS = 20_000

# Drawn: the last time that anything under main or the controls changed or an answer came, before
# the page was quiet. The question every two seconds whether there is something new is not drawing.
WATCH = """
(() => {
  const seen = (window.seen = { last: 0, pending: 0, touched: 0 });
  const plain = window.fetch;
  window.fetch = async (...given) => {
    const body = String(given[1]?.body ?? "");
    if (body.includes("live.children")) return plain(...given);
    seen.pending += 1;
    seen.touched += 1;
    try {
      return await plain(...given);
    } finally {
      seen.pending -= 1;
      seen.last = performance.now();
    }
  };
  const mark = (changes) => {
    for (const one of changes) {
      const node = one.target.nodeType === 1 ? one.target : one.target.parentElement;
      if (node && node.closest("main, .bar")) {
        seen.last = performance.now();
        seen.touched += 1;
        return;
      }
    }
  };
  new MutationObserver(mark).observe(document, {
    childList: true, subtree: true, attributes: true, characterData: true,
  });
  window.quiet = (since, rest) => new Promise((done) => {
    const look = () => {
      const now = performance.now();
      const idle = seen.pending === 0 && seen.last > since && now - seen.last > rest;
      if (idle || now - since > LIMIT) done(idle ? seen.last - since : NaN);
      else setTimeout(look, 10);
    };
    look();
  });
})();
""".replace("LIMIT", str(LIMIT_MS))

Action = tuple[str, Callable[[Page, random.Random], str | None]]
"""A name, and the script that does it; None where it cannot be done on the page now."""


def _script(text: str) -> Callable[[Page, random.Random], str | None]:
    return lambda page, rng: text


def _layer(page: Page, rng: random.Random) -> str:
    return f"document.querySelectorAll('.rail-row')[{rng.randrange(200)}].click()"


def _touch(what: Callable[[random.Random], str]) -> Callable[[Page, random.Random], str]:
    return lambda page, rng: f"window.optgeom.touch({what(rng)})"


def _span(rng: random.Random) -> str:
    start = rng.randrange(0, 1500)
    return f"{{span: [{start}, {start + rng.randrange(100, 500)}]}}"


def _metric(rng: random.Random) -> str:
    names = ["condition_number", "stable_rank", "update_rms", "neuron_norm_cv", "spectral_norm"]
    return f"{{metric: '{rng.choice(names)}'}}"


STEP: Action = ("move the step", _touch(lambda rng: f"{{step: {rng.randrange(2000)}}}"))
ZOOM: Action = ("zoom the steps", _touch(_span))
WHOLE: Action = ("show all steps", _touch(lambda rng: "{span: null}"))
LAYER: Action = ("choose a layer", _layer)
NEURON: Action = ("choose a neuron", _touch(lambda rng: f"{{neuron: {rng.randrange(8192)}}}"))
SWAP: Action = ("swap runs", _script("document.getElementById('swap').click()"))
THEME: Action = ("light or dark", _script("document.getElementById('theme').click()"))
PAGES: dict[str, list[Action]] = {
    "/": [LAYER, LAYER, STEP, STEP, NEURON, ZOOM, WHOLE, SWAP, THEME],
    "/spectra": [STEP, ZOOM, WHOLE, SWAP, THEME],
    "/layers": [("choose a metric", _touch(_metric)), STEP, ZOOM, WHOLE, THEME],
    "/runs": [
        ("loss by", _touch(lambda rng: f"{{by: '{rng.choice(['step', 'tokens'])}'}}")),
        THEME,
    ],
}

# How often each page is opened: people stay where the question is.
WEIGHTS = (5, 2, 2, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="written there first if it is not there")
    parser.add_argument("--interactions", type=int, default=500)
    parser.add_argument("--loads", type=int, default=10, help="of the first page (%(default)s)")
    json_option(parser)
    given = parser.parse_args(arguments)
    print(machine(), end="\n\n")
    write_big(given.folder)
    with serving(given.folder) as (address, process), chromium() as context:
        loads = measure_loads(context, address, given.loads)
        found = measure_interactions(context, address, given.interactions, process.pid)
    print(table(loads), end="\n\n")
    print(table(found["times"]), end="\n\n")
    print(table(found["memory"]), end="\n\n")
    print(table(found["answers"]))
    write_json(given.json, {"loads": loads, **found})


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve the folder by the command line, in a process of its own."""
    command = [sys.executable, "-m", "optgeom", "dashboard", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if found is None:
            raise RuntimeError(f"the dashboard did not start: {line!r}")
        yield found[0].rstrip(")"), process
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def chromium() -> Iterator[BrowserContext]:
    """Start the Chromium that is installed, with a profile on the disk as people have one.

    Without one it keeps no compiled scripts from one tab to the next.
    """
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            profile,
            executable_path=path,
            args=list(FLAGS),
            viewport={"width": 1440, "height": 900},
        )
        context.add_init_script(WATCH)
        try:
            yield context
        finally:
            context.close()


def measure_loads(context: BrowserContext, address: str, count: int) -> list[dict[str, str]]:
    """The first page: cold (server and browser just started), then in new tabs."""
    cold, warm = 0.0, []
    for place in range(count + 3):
        page = context.new_page()
        page.goto(address, wait_until="commit")
        usable = page.evaluate(_USABLE)
        whole = page.evaluate(f"window.quiet(0, {QUIET_MS})")
        page.close()
        # The browser keeps a script's compiled form from its second use on.
        if place > 2:
            warm.append((usable, whole))
        elif not place:
            cold = usable
    return [
        {
            "first page": "usable: sentence, cards and both panels drawn",
            "cold, s": Number(cold / 1e3, ".2f"),
            "warm, s": Number(Interval.of([one / 1e3 for one, _ in warm]), ".2f"),
        },
        {
            "first page": "everything below the fold drawn too",
            "cold, s": "",
            "warm, s": Number(Interval.of([one / 1e3 for _, one in warm]), ".2f"),
        },
    ]


_USABLE = """
() => new Promise((done) => {
  const drawn = (name) =>
    document.querySelector(`#${name} .main-svg .scatterlayer .trace`) !== null;
  const look = () => {
    const said = document.querySelector(".sentence")?.textContent;
    if (said && drawn("norms") && drawn("spectrum")) done(performance.now());
    else setTimeout(look, 5);
  };
  look();
})
"""


def measure_interactions(
    context: BrowserContext, address: str, count: int, server: int
) -> dict[str, list[dict[str, str]]]:
    """Do what a reader does, at random over all pages, and wait each time until it is drawn."""
    rng = random.Random(0)
    page = context.new_page()
    answers: dict[str, list[int]] = defaultdict(list)
    page.on("response", lambda one: _note(answers, one))
    page.goto(address, wait_until="commit")
    page.evaluate(f"window.quiet(0, {QUIET_MS})")
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    memory = [(0, _resident(server))]
    here = "/"
    for done in range(count):
        if rng.random() < 0.06:
            (here,) = rng.choices(list(PAGES), weights=WEIGHTS)
            action: Action = (
                "open the page",
                _script(
                    f'document.querySelector(\'nav a[href^="{here}?"], '
                    f'nav a[href="{here}"]\').click()'
                ),
            )
        else:
            action = rng.choice(PAGES[here])
        name, script = action[0], action[1](page, rng)
        if script is None:
            continue
        taken = page.evaluate(
            "async () => { const since = performance.now(); const before = seen.touched;"
            f" {script}; await new Promise((go) => setTimeout(go, 50));"
            f" return seen.touched === before ? 0 : window.quiet(since, {QUIET_MS}); }}"
        )
        times[here, name].append(taken)
        if (done + 1) % 50 == 0:
            memory.append((done + 1, _resident(server)))
    everything = [one for values in times.values() for one in values]
    rows = [_row(page_path, name, values) for (page_path, name), values in sorted(times.items())]
    rows.append(_row("all", f"{len(everything)} interactions", everything))
    return {
        "times": rows,
        "memory": [
            {"after interactions": str(at), "server memory, MB": f"{size / 1e6:.0f}"}
            for at, size in memory
        ],
        "answers": [
            {
                "answers": kind,
                "count": str(len(sizes)),
                "median, kB": f"{statistics.median(sizes) / 1e3:.1f}",
                "largest, kB": f"{max(sizes) / 1e3:.0f}",
            }
            for kind, sizes in sorted(answers.items())
        ],
    }


def _row(page: str, name: str, values: list[float]) -> dict[str, str]:
    ordered = sorted(values)
    return {
        "page": page,
        "interaction": name,
        "count": str(len(values)),
        "median, ms": Number(statistics.median(values), ".0f"),
        "p95, ms": Number(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], ".0f"),
        "longest, ms": Number(ordered[-1], ".0f"),
    }


def _note(answers: dict[str, list[int]], response: Response) -> None:
    path = response.url.split("?")[0]
    assets = "/_dash-component-suites/" in path or "/assets/" in path
    kind = "scripts and styles (cached by the browser)" if assets else "data and page"
    size = response.headers.get("content-length")
    if size is not None:
        answers[kind].append(int(size))


def _resident(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return 1024 * int(line.split()[1])
    return 0


if __name__ == "__main__":
    main()
