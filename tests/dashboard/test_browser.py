"""The page in a real browser: wiring only, since what it shows is tested as functions."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from optgeom import open_trace
from optgeom.dashboard import write_report
from optgeom.dashboard.controls import PAGES

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

UP = "blocks.1.mlp.up.weight"
DARK = "rgb(22, 24, 29)"
HOSTILE_LAYER = "<b>bold</b><script>document.title='hacked'</script>"


Opener = Callable[..., Any]


def _ground(page: Page, graph: str) -> str:
    script = "(e) => getComputedStyle(e).backgroundColor"
    return str(page.eval_on_selector(f"{graph} .main-svg", script))


def _lines(page: Page, graph: str) -> list[str]:
    script = "(e) => e.data.map((line) => line.name)"
    return list(page.eval_on_selector(f"{graph} .js-plotly-plot", script))


def _sentence(page: Page) -> str:
    return page.inner_text(".sentence").replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("path", PAGES)
def test_it_loads_in_silence_and_asks_nobody_else(
    open_page: Opener, address: str, path: str
) -> None:
    watched = open_page(address + path)
    foreign = [url for url in watched.requests if not url.startswith((address, "data:", "blob:"))]
    assert foreign == []
    assert len(watched.requests) > 5


def test_a_layer_clicked_changes_sentence_panels_and_address(
    open_page: Opener, address: str
) -> None:
    page = open_page(address).page
    before = page.eval_on_selector("#norms .js-plotly-plot", "(e) => e._fullData[0].y.length")
    page.click('.rail-row:has-text("block 0") >> nth=0')
    page.wait_for_function(
        "() => document.querySelector('.sentence').innerText.includes('block 0')"
    )
    page.wait_for_url(re.compile("layer=blocks.0.attention.q.weight"))
    assert "attention.q of block 0" in _sentence(page)
    page.wait_for_function(
        f"() => document.querySelector('#norms .js-plotly-plot')._fullData[0].y.length !== {before}"
    )


def test_arrow_keys_choose_the_next_layer(open_page: Opener, address: str) -> None:
    page = open_page(f"{address}/?layer=blocks.0.mlp.up.weight").page
    page.focus('.rail-row[aria-checked="true"]')
    page.keyboard.press("ArrowDown")
    page.wait_for_url(re.compile("layer=blocks.1.mlp.up.weight"))


def test_the_slider_moves_the_step_and_the_address(open_page: Opener, address: str) -> None:
    page = open_page(address).page
    assert "At step 40" in _sentence(page)
    page.focus('[role="slider"]')
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(re.compile("step=30"))
    page.wait_for_function(
        "() => document.querySelector('.sentence').innerText.includes('step 30')"
    )
    assert page.inner_text("#step-text") == "step 30"


def test_play_walks_the_steps(open_page: Opener, address: str) -> None:
    page = open_page(f"{address}/?step=0").page
    page.click("#play")
    page.wait_for_url(re.compile("step=10"))
    page.wait_for_url(re.compile("step=20"))
    page.click("#play")
    page.wait_for_selector(".glyph-play")


def test_a_link_opens_the_same_view(open_page: Opener, address: str) -> None:
    query = f"?a=adamw&b=muon&layer={UP}&stage=momentum&step=20&theme=dark"
    page = open_page(f"{address}/{query}").page
    assert "the momentum of mlp.up of block 1" in _sentence(page)
    assert page.input_value("#run-a") == "AdamW"
    assert page.input_value("#stage") == "momentum"
    assert page.url.endswith(query)


def test_swap_and_one_run_alone(open_page: Opener, address: str) -> None:
    page = open_page(address).page
    page.click("#swap")
    page.wait_for_url(re.compile("a=normuon&b=muon"))
    page.wait_for_function(
        "() => document.querySelector('.sentence').innerText.includes('less evenly')"
    )
    page.goto(f"{address}/?a=muon&b=")
    page.wait_for_function(
        "() => document.querySelector('.sentence')?.innerText.includes('with a CV of')"
    )
    assert page.locator(".card-other").count() == 1


def test_further_runs_are_drawn(open_page: Opener, address: str) -> None:
    page = open_page(address).page
    page.click("#more-button")
    page.click('label:has-text("AdamW")')
    page.wait_for_url(re.compile("more=adamw"))
    page.wait_for_function(
        "() => document.querySelector('#norms .js-plotly-plot').data.some(l => l.name === 'AdamW')"
    )


def test_dark_reaches_page_graphs_and_grids(open_page: Opener, address: str) -> None:
    page = open_page(address).page
    assert _ground(page, "#norms") == "rgb(255, 255, 255)"
    page.click("#theme")
    page.wait_for_url(re.compile("theme=dark"))
    page.wait_for_function(
        "(want) => getComputedStyle(document.querySelector('#norms .main-svg')).backgroundColor"
        " === want",
        arg=DARK,
    )
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == DARK
    page.click('a:has-text("Runs")')
    page.wait_for_selector("#config-grid .ag-row")
    page.wait_for_selector("#loss .main-svg")
    assert _ground(page, "#loss") == DARK
    script = "(e) => getComputedStyle(e).backgroundColor"
    assert page.eval_on_selector("#config-grid .ag-root-wrapper", script) == DARK


def test_what_the_system_prefers_is_the_default(
    browser: Browser, address: str, shots: ModuleType
) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(address)
    shots.settle(page)
    assert _ground(page, "#norms") == DARK
    assert "theme" not in page.url
    page.close()


def test_the_runs_page(open_page: Opener, address: str) -> None:
    page = open_page(f"{address}/runs?a=muon&b=normuon").page
    assert sorted(_lines(page, "#loss")) == ["AdamW", "Muon", "NorMuon"]
    page.wait_for_selector("#config-grid .ag-row")
    few = page.locator("#config-grid .ag-row").count()
    page.click("#config-all")
    page.wait_for_function(
        f"() => document.querySelectorAll('#config-grid .ag-row').length > {few}"
    )
    page.click("text=by tokens")
    page.wait_for_url(re.compile("by=tokens"))
    assert "dispatch" in page.inner_text("#cost-grid")


def test_tabs_keep_the_view_and_the_way_back(open_page: Opener, address: str) -> None:
    page = open_page(f"{address}/?step=20").page
    page.click('a:has-text("Runs")')
    page.wait_for_url(re.compile("/runs.*step=20"))
    page.wait_for_selector("#loss", state="visible")
    page.go_back()
    page.wait_for_selector("#norms", state="visible")
    assert "step=20" in page.url


def test_names_are_text_never_markup(
    open_page: Opener, shots: ModuleType, hostile: Path, tmp_path: Path
) -> None:
    with shots.serving(hostile) as at:
        page = open_page(f"{at}/?layer={quote(HOSTILE_LAYER)}").page
        assert HOSTILE_LAYER in page.inner_text(".layer-line")
        for path, title in PAGES.items():
            page.goto(f"{at}{path}?layer={quote(HOSTILE_LAYER)}&table=1")
            shots.settle(page)
            assert page.title() == f"{title} \N{MIDDLE DOT} optgeom"
            assert page.locator("main img").count() == 0
        page.close()
    report = write_report(hostile, tmp_path / "report.html", layers=[HOSTILE_LAYER])
    opened = open_page(report.as_uri(), drawn=False)
    opened.page.wait_for_selector("#f3 .main-svg")
    assert opened.page.title() != "hacked"
    assert [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_the_layers_are_a_drawer_on_narrow_screens(open_page: Opener, address: str) -> None:
    page = open_page(address, width=1024, height=768).page
    assert not page.is_visible("#rail-box")
    page.click("#rail-button")
    page.wait_for_selector("#rail-box", state="visible")
    page.click('.rail-row:has-text("block 0") >> nth=1')
    page.wait_for_selector("#rail-box", state="hidden")
    page.wait_for_url(re.compile("attention.k"))
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 1024


def test_a_live_run_appears_without_reloading(
    open_page: Opener, shots: ModuleType, fake: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "live"
    folder.mkdir()
    with shots.serving(folder) as at:
        page = open_page(at, drawn=False).page
        page.wait_for_selector("text=No runs yet")
        writer = fake.write_run(folder / "muon", "muon", steps=(0,), blocks=1, close=False)
        page.wait_for_function(
            "() => document.querySelector('.sentence')?.innerText.includes('At step 0 Muon')"
        )
        fake.put_steps(writer, "muon", (10,))
        writer.flush()
        page.wait_for_function("() => document.querySelector('.sentence').innerText.includes('10')")
        assert re.search(r"step 10 · \d+ s ago", page.inner_text("#live"))
        writer.close()
        page.close()


def test_a_damaged_run_is_said_and_can_be_retried(
    open_page: Opener, shots: ModuleType, fake: ModuleType, tmp_path: Path
) -> None:
    fake.write_run(tmp_path / "muon", "muon", blocks=1)
    (segment,) = (tmp_path / "muon" / "neurons").glob("*.parquet")
    whole = segment.read_bytes()
    segment.write_bytes(whole[: len(whole) // 2])
    with shots.serving(tmp_path) as at:
        page = open_page(at, drawn=False).page
        page.wait_for_selector(".problem")
        assert "neurons" in page.inner_text(".problem")
        segment.write_bytes(whole)
        page.click("#retry")
        page.wait_for_selector(".sentence")
        page.wait_for_selector(".problem", state="detached")
        page.close()


def test_a_panel_gives_its_data_and_its_picture(
    open_page: Opener, address: str, demo: Path
) -> None:
    page = open_page(address).page
    page.click("#norms-panel .panel-head .icon")
    with page.expect_download() as data:
        page.click("text=Save data as CSV")
    assert data.value.suggested_filename == "optgeom-norms.csv"
    with data.value.path().open() as file:
        rows = list(csv.DictReader(file))
    assert {row["run"] for row in rows} == {"muon", "normuon"}
    trace = open_trace(demo / "muon")
    norms = trace.neuron_norms(40, UP).astype(float)
    mine = {
        int(row["neuron"]): float(row["norm / mean"])
        for row in rows
        if row["run"] == "muon" and row["curve"] == "captured"
    }
    assert [mine[neuron] for neuron in range(len(norms))] == pytest.approx(norms / norms.mean())
    page.click("#spectrum-panel .panel-head .icon")
    with page.expect_download() as picture:
        page.click("text=Save as SVG")
    assert picture.value.suggested_filename == "optgeom-spectrum.svg"
    assert "<svg" in picture.value.path().read_text()
    page.click("#norms-panel .panel-head .icon")
    page.click("text=Full width")
    page.wait_for_function(
        "() => document.querySelector('#norms .main-svg').getBoundingClientRect().width > 900"
    )
