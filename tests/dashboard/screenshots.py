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

from optgeom.dashboard.controls import PAGES
from optgeom.dashboard.server import address_of, end, make_server

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
        end(server)
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


DRAWN = """
() => {
  if (document.querySelector('[data-dash-is-loading="true"]')) return false;
  if ([...document.querySelectorAll("main .empty")].some((one) => one.offsetParent)) return true;
  const shown = [...document.querySelectorAll("main .figure")].filter((one) => one.offsetParent);
  return shown.length > 0 && shown.every((one) => {
    const plot = one.querySelector(".js-plotly-plot");
    return plot && (plot.data?.length > 0 || plot.layout?.annotations?.length > 0);
  });
}
"""


def settle(page: Page) -> None:
    """Wait until every figure of the shown page is drawn and nothing is being loaded."""
    page.wait_for_function(DRAWN)
    page.wait_for_timeout(400)
    page.wait_for_function(DRAWN)


def shoot(browser: Browser, address: str, folder: Path) -> list[Path]:
    """Take every page at both sizes in both themes; the wide ones whole, down to their end."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for width, height in SIZES:
        for scheme in SCHEMES:
            page = browser.new_page(viewport={"width": width, "height": height})
            for path, title in PAGES.items():
                page.goto(f"{address}{path}?theme={scheme}")
                settle(page)
                made.append(folder / f"{title.lower()}-{width}x{height}-{scheme}.png")
                page.screenshot(path=made[-1], full_page=width == SIZES[0][0] and path != "/runs")
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
