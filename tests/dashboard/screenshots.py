"""Takes the pictures in docs/screenshots: the real server, a real browser, both sizes and themes.

Run as ``python tests/dashboard/screenshots.py runs/demo docs/screenshots``.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from optgeom.dashboard.server import address_of, make_server

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
"""Names under which tests/chromium.sh looks for a browser, in its order."""

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZES = ((1440, 900), (1024, 768))
SCHEMES = ("light", "dark")


@contextlib.contextmanager
def serving(runs: Path) -> Iterator[str]:
    """Serve a folder of runs on a free port and yield the address."""
    server = make_server(runs, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield address_of("127.0.0.1", server.effective_port)
    finally:
        server.close()
        thread.join(timeout=5)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium."""
    with sync_playwright() as driver:
        found = next(filter(None, map(shutil.which, CHROMIUM)), None)
        if found is None:
            raise FileNotFoundError("no Chromium: 'make chromium' installs one, or says how")
        browser = driver.chromium.launch(executable_path=found, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def settle(page: Page) -> None:
    """Wait until the figures of the shown page are drawn and nothing is being loaded."""
    for graph in ("#loss",) if "/runs" in page.url else ("#norms", "#spectrum"):
        page.wait_for_selector(f"{graph} .main-svg .xaxislayer-above", state="attached")
        page.wait_for_function(
            "(graph) => document.querySelector(`${graph} .js-plotly-plot`)?.data?.length > 0",
            arg=graph,
        )
    page.wait_for_function("() => !document.querySelector('[data-dash-is-loading=\"true\"]')")
    page.wait_for_timeout(400)


def shoot(browser: Browser, address: str, folder: Path) -> list[Path]:
    """Take Balance and Runs at both sizes in both themes."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for width, height in SIZES:
        for scheme in SCHEMES:
            page = browser.new_page(viewport={"width": width, "height": height})
            for name, path in (("balance", "/"), ("runs", "/runs")):
                page.goto(f"{address}{path}?theme={scheme}")
                settle(page)
                made.append(folder / f"{name}-{width}x{height}-{scheme}.png")
                page.screenshot(path=made[-1])
            page.close()
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    with serving(given.runs) as address, chromium() as browser:
        shoot(browser, address, given.folder)


if __name__ == "__main__":
    main()
