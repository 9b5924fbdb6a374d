"""Figures that know of each other, and a page that follows: in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from optgeom.dashboard.controls import PAGES

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

Opener = Callable[..., Any]
UP = "blocks.1.mlp.up.weight"
HISTORY = ("map-a", "map-b", "balance", "condition")


def _range(page: Page, graph: str) -> list[float]:
    script = "(e) => e._fullLayout.xaxis.range"
    return list(page.eval_on_selector(f"#{graph} .js-plotly-plot", script))


def _at(page: Page, graph: str, across: float, down: float = 0.5) -> tuple[float, float]:
    """A point within a figure's plot, by its shares; the figure is brought into view."""
    plot = page.locator(f"#{graph} .js-plotly-plot")
    plot.scroll_into_view_if_needed()
    box = plot.locator(".nsewdrag").first.bounding_box()
    assert box is not None
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def test_a_click_in_a_history_moves_the_step(open_page: Opener, address: str) -> None:
    page = open_page(f"{address}/?step=40").page
    page.mouse.click(*_at(page, "balance", 0.26))
    page.wait_for_url(re.compile("step=10"))
    page.wait_for_function("() => document.querySelector('.sentence').innerText.includes('p 10')")
    for graph in HISTORY:
        line = page.locator(f"#{graph} .cursor").bounding_box()
        assert line is not None
        assert line["x"] == pytest.approx(_at(page, graph, 0.25)[0], abs=2)


def test_a_zoom_reaches_every_figure_over_steps_and_the_address(
    open_page: Opener, address: str
) -> None:
    page = open_page(address).page
    whole = _range(page, "map-a")
    page.mouse.move(*_at(page, "condition", 0.2))
    page.mouse.down()
    page.mouse.move(*_at(page, "condition", 0.8), steps=5)
    page.mouse.up()
    page.wait_for_url(re.compile(r"span=\d+-\d+"))
    found = re.search(r"span=(\d+)-(\d+)", page.url)
    assert found is not None
    low, high = int(found[1]), int(found[2])
    assert 5 <= low <= 11
    assert 29 <= high <= 35
    for graph in HISTORY:
        page.wait_for_function(
            "([graph, low]) => Math.abs(document.querySelector(`#${graph} .js-plotly-plot`)"
            "._fullLayout.xaxis.range[0] - low) < 1",
            arg=[graph, low],
        )
        assert _range(page, graph) == pytest.approx([low, high], abs=0.6)
    assert page.inner_text("#span-text").startswith(f"steps {low} to {high}")
    page.click("#span-text")
    page.wait_for_function("() => !location.search.includes('span')")
    page.wait_for_function(
        "(low) => document.querySelector('#map-a .js-plotly-plot')._fullLayout.xaxis.range[0]"
        " === low",
        arg=whole[0],
    )
    assert _range(page, "map-a") == whole


def test_a_double_click_shows_all_steps_again(open_page: Opener, address: str) -> None:
    page = open_page(f"{address}/?span=10-30").page
    assert _range(page, "balance") == [10, 30]
    page.mouse.dblclick(*_at(page, "balance", 0.5))
    page.wait_for_function("() => !location.search.includes('span')")
    page.wait_for_function(
        "() => document.querySelector('#balance .js-plotly-plot')._fullLayout.xaxis.range[1] > 39"
    )


def test_a_crosshair_stands_at_the_same_step_everywhere(open_page: Opener, address: str) -> None:
    page = open_page(address).page
    page.mouse.move(*_at(page, "balance", 0.45))
    page.mouse.move(*_at(page, "balance", 0.5))
    page.wait_for_selector("#condition .crosshair", state="visible")
    line = page.locator("#condition .crosshair").bounding_box()
    middle = _at(page, "condition", 0.5)[0]
    assert line is not None
    assert line["x"] == pytest.approx(middle, abs=2)
    assert page.locator("#balance .crosshair:visible").count() == 0
    page.mouse.move(5, 5)
    page.wait_for_selector("#condition .crosshair", state="hidden")


def test_a_neuron_chosen_in_a_heatmap_is_marked_in_all_figures_of_neurons(
    open_page: Opener, address: str
) -> None:
    page = open_page(address).page
    before = page.locator("#norms .scatterlayer .trace").count()
    page.mouse.click(*_at(page, "map-a", 0.5, 0.02))
    page.wait_for_url(re.compile(r"neuron=\d+"))
    page.wait_for_function(
        "(before) => document.querySelectorAll('#norms .scatterlayer .trace').length > before",
        arg=before,
    )
    for graph in ("map-a", "map-b"):
        page.wait_for_function(
            "(graph) => document.querySelector(`#${graph} .js-plotly-plot`)"
            ".layout.shapes.length > 1",
            arg=graph,
        )
    neuron = page.url.split("neuron=")[1].split("&")[0]
    text = page.inner_text("#norms")
    assert f"neuron {neuron}" in text
    page.click('.rail-row:has-text("block 0") >> nth=0')
    page.wait_for_function("() => !location.search.includes('neuron')")


def test_the_table_of_neurons(open_page: Opener, address: str) -> None:
    page = open_page(address).page
    page.click("text=Dominant and dormant neurons")
    page.wait_for_url(re.compile("table=1"))
    page.wait_for_selector("#neurons .ag-row")
    everything = page.locator("#neurons .ag-row").count()
    page.fill("#neurons-search", "dormant")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#neurons .ag-row')]"
        ".every((row) => row.innerText.includes('dormant'))"
    )
    assert 0 < page.locator("#neurons .ag-row").count() <= everything
    with page.expect_download() as data:
        page.click("#neurons-csv")
    lines = data.value.path().read_text().splitlines()
    assert all("dormant" in line for line in lines[1:])
    page.click('#neurons .ag-row >> nth=0 >> [col-id="neuron"]')
    page.wait_for_url(re.compile(r"neuron=\d+"))
    again = open_page(page.url).page
    again.wait_for_selector("#neurons .ag-row")


def test_spectra_has_a_column_for_each_run(
    open_page: Opener, shots: ModuleType, address: str
) -> None:
    page = open_page(f"{address}/spectra?a=muon&b=normuon&more=adamw&layer={UP}").page
    titles = page.locator(".columns >> nth=0 >> .run-name >> visible=true").all_inner_texts()
    assert titles == ["Muon", "NorMuon", "AdamW"]
    tops = [
        page.eval_on_selector(f"#spectrum-{i} .js-plotly-plot", "(e) => e.layout.yaxis.range")
        for i in range(3)
    ]
    assert tops[0] == tops[1] == tops[2]
    page.goto(f"{address}/spectra?a=muon&b=")
    shots.settle(page)
    assert not page.is_visible("#spectrum-1-panel")
    assert page.is_visible("#spectrum-0-panel")


def test_layers_shows_any_metric_and_leads_to_balance(open_page: Opener, address: str) -> None:
    page = open_page(f"{address}/layers").page
    page.click("#metric")
    page.click("[role=option]:has-text('Stable rank')")
    page.wait_for_url(re.compile("metric=stable_rank"))
    page.wait_for_function("() => document.querySelector('h1')?.innerText.includes('Stable rank')")
    page.mouse.click(*_at(page, "layers-0", 0.5, 0.02))
    page.wait_for_selector("#norms", state="visible")
    # the page is there before the server has said which layer that was
    page.wait_for_url(re.compile(r"layer=blocks\.0\.attention\.q\.weight\b.*step=20"))
    page.go_back()
    page.wait_for_selector("#layers-0", state="visible")


@pytest.mark.parametrize("path", PAGES)
def test_every_figure_has_a_title_and_a_text_alternative(
    open_page: Opener, address: str, path: str
) -> None:
    page = open_page(address + path).page
    figures = page.locator('[role="img"] >> visible=true')
    assert figures.count() > 0
    for place in range(figures.count()):
        words = figures.nth(place).get_attribute("aria-label") or ""
        assert re.search(r"\d", words), words
        assert words.rstrip().endswith("."), words


@pytest.mark.parametrize("path", PAGES)
def test_every_control_has_a_name_and_can_be_reached(
    open_page: Opener, address: str, path: str
) -> None:
    page = open_page(address + path).page
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('button, input, a, [role=slider]')]"
        ".filter((e) => e.offsetParent && e.tabIndex >= 0)"
        ".filter((e) => !(e.innerText?.trim() || e.ariaLabel || e.title || e.labels?.length"
        " || e.getAttribute('aria-labelledby')))"
        ".map((e) => e.outerHTML.slice(0, 120))"
    )
    assert unnamed == []
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id"))
    assert {"run-a", "run-b", "swap", "layer", "stage", "play", "theme"} <= reached


def test_the_way_through_the_tabs_keeps_zoom_and_neuron(open_page: Opener, address: str) -> None:
    page = open_page(f"{address}/?span=10-30&neuron=3").page
    for title in ("Spectra", "Layers", "Runs", "Balance"):
        page.click(f'nav a:has-text("{title}")')
        page.wait_for_url(re.compile("neuron=3&span=10-30"))
    assert _range(page, "balance") == [10, 30]


RECORD = """
() => {
  window.answers = [];
  const plain = window.fetch;
  window.fetch = async (...given) => {
    const answer = await plain(...given);
    if (answer.status === 200) window.answers.push(await answer.clone().json());
    return answer;
  };
}
"""

ANSWERED = """
() => !window.optgeom.waits() && window.answers.some((one) => "view" in one.response)
  && location.search === window.optgeom.view.q
"""


def _figures(page: Page) -> dict[str, Any]:
    """The figures that callbacks answered with since RECORD, by graph: whole ones, patches."""
    found: dict[str, Any] = {}
    for one in page.evaluate("() => window.answers"):
        parts = one.get("response", {})
        found |= {name: part["figure"] for name, part in parts.items() if "figure" in part}
    return found


def test_following_a_run_keeps_the_zoom_and_sends_what_changed(
    open_page: Opener, shots: ModuleType, fake: ModuleType, tmp_path: Path
) -> None:
    for name in ("muon", "normuon"):
        fake.write_run(tmp_path / name, name, steps=(0, 10, 20), blocks=1, close=name == "muon")
    writer = fake.write_run(tmp_path / "adamw", "adamw", steps=(0,), blocks=1, close=False)
    with shots.serving(tmp_path) as at:
        page = open_page(f"{at}/?a=adamw&b=muon&step=0&span=0-15").page
        page.evaluate(RECORD)
        fake.put_steps(writer, "adamw", (10,))
        writer.flush()
        page.wait_for_function(
            "() => document.querySelector('#balance .js-plotly-plot')._fullData"
            ".some((line) => line.name === 'AdamW' && line.x.length === 2)"
        )
        assert _range(page, "balance") == [0, 15]
        assert "span=0-15" in page.url
        page.wait_for_timeout(500)
        sent = _figures(page)
        # The step looked at is an earlier one: what it shows has not changed, and is not sent.
        assert "norms" not in sent
        assert "spectrum" not in sent
        assert "__dash_patch_update" in sent["balance"]
        writer.close()
        page.close()


def test_a_tab_that_nobody_sees_asks_for_nothing(open_page: Opener, address: str) -> None:
    watched = open_page(address)
    page = watched.page
    script = (
        "(hidden) => { Object.defineProperty(document, 'hidden', {value: hidden, configurable:"
        " true}); document.dispatchEvent(new Event('visibilitychange')); }"
    )
    page.evaluate(script, True)
    page.wait_for_timeout(300)
    before = len(watched.requests)
    page.wait_for_timeout(5000)
    assert len(watched.requests) == before
    page.evaluate(script, False)
    with page.expect_request(re.compile("_dash-update-component")):
        pass


def test_what_a_metric_means_is_said_on_hover_and_on_focus(open_page: Opener, address: str) -> None:
    page = open_page(address).page
    page.hover(".card .help >> nth=0")
    page.wait_for_selector("#help-card")
    assert "std(rho) / mean(rho)" in page.inner_text("#help-card")
    box = page.locator("#help-card").bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= 1440
    page.mouse.move(5, 5)
    page.wait_for_selector("#help-card", state="detached")
    page.focus("#spectrum-panel .help")
    page.wait_for_selector("#help-card")
    page.keyboard.press("Escape")
    page.wait_for_selector("#help-card", state="detached")


def test_the_menu_of_a_figure_works_by_keys(open_page: Opener, address: str) -> None:
    page = open_page(address).page
    page.focus("#norms-panel .menu-button")
    page.keyboard.press("Enter")
    page.wait_for_selector(".menu")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("() => document.activeElement.textContent") == "Save as SVG"
    page.keyboard.press("Escape")
    page.wait_for_selector(".menu", state="detached")
    assert page.evaluate("() => document.activeElement.className") == "icon menu-button"


def test_what_the_browser_foresees_is_what_the_server_answers(
    open_page: Opener, address: str
) -> None:
    """Figures are asked for before the answer: were it another, they would be asked for twice."""
    page = open_page(f"{address}/?a=muon&b=normuon&span=0-35&layer={UP}").page
    page.evaluate(RECORD)
    for touch in (
        "{step: 13}",
        "{layer: 'blocks.0.attention.q.weight'}",
        "{neuron: 5}",
        "{span: [4.2, 31.7]}",
        "{span: null}",
        "{theme: 'dark'}",
        "{step: 40}",
        "{stage: 'momentum'}",
    ):
        page.evaluate(f"() => {{ window.answers = []; window.optgeom.touch({touch}); }}")
        page.wait_for_function(ANSWERED)
        # a second question for the figures would have been asked within this time
        page.wait_for_timeout(500)
        answers = page.evaluate("() => window.answers.map((one) => Object.keys(one.response))")
        for marks in ("norms-marks", "map-a-marks"):
            assert sum(marks in one for one in answers) <= 1, touch


def test_a_tab_right_after_a_touch_takes_it_along(open_page: Opener, address: str) -> None:
    page = open_page(f"{address}/?layer={UP}").page
    page.evaluate(
        "() => { document.querySelector('.rail-row').click();"
        " document.querySelectorAll('nav .tab')[1].click(); }"
    )
    page.wait_for_selector("#spectrum-0", state="visible")
    page.wait_for_url(re.compile("/spectra.*layer=blocks.0.attention.q.weight"))
    page.go_back()
    page.wait_for_selector("#norms", state="visible")
    page.wait_for_url(re.compile("layer=blocks.0.attention.q.weight"))
