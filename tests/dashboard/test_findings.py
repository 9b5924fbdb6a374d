"""Findings on the page: how many in the header, which on the page Runs and in the report."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, quote

import dash
import plotly
import pytest
import torch

import optgeom
from optgeom.dashboard import finding_words, findings, write_report
from optgeom.dashboard.data import Runs
from optgeom.dashboard.finding_wires import section_of, told_of
from optgeom.dashboard.finding_words import Piece, head, of_run
from optgeom.dashboard.findings import Findings, look_at
from optgeom.dashboard.view import View, resolve, search
from optgeom.geometry.diagnosis.finding import Diagnosis, Finding
from optgeom.geometry.diagnosis.registry import RULES
from optgeom.traces.errors import OptgeomError
from optgeom.traces.info import LayerInfo
from optgeom.traces.store import Trace, open_trace
from tests.geometry.diagnosis.faults import Muon
from tests.geometry.diagnosis.loops import hidden, train

FAULT = "sgd <img src=x onerror=alert(1)>"
SEVERE = "not_orthogonal"
Opener = Callable[..., Any]


def plain_descent(self: Any, p: Any, buffer: Any, group: Any, state: Any) -> Any:
    return p.grad


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Muon of torch, and plain gradient descent that calls itself Muon."""
    folder = tmp_path_factory.mktemp("findings") / "runs"
    made = type("Muon", (Muon,), {"direction": plain_descent})
    train(folder / "muon", lambda net: torch.optim.Muon(hidden(net), lr=0.02))
    train(folder / FAULT, lambda net: made([{"params": hidden(net)}]))
    return folder


def text(tree: Any) -> str:
    return json.dumps(tree, cls=plotly.utils.PlotlyJSONEncoder, ensure_ascii=False)


def words(tree: Any) -> list[str]:
    """Every text of components, in order."""
    if isinstance(tree, str):
        return [tree]
    inner = tree if isinstance(tree, (list, tuple)) else [getattr(tree, "children", None)]
    return [word for one in inner if one is not None for word in words(one)]


def kinds(tree: Any) -> list[Any]:
    """Every component, in order."""
    if isinstance(tree, (list, tuple)):
        return [found for one in tree for found in kinds(one)]
    return (
        [tree, *kinds(getattr(tree, "children", None))] if hasattr(tree, "to_plotly_json") else []
    )


def asked(runs: Runs, **chosen: Any) -> dict[str, Any]:
    """What the browser asks with: the address of a view that the server filled."""
    return {"q": search(resolve(View(**chosen), runs.all())), "token": runs.token()}


def section_in(page: str) -> str:
    """The section of a report."""
    return page.partition('<section class="findings">')[2].partition("</section>")[0]


class Counted:
    """``diagnose``, and how often it was asked for what run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.real = findings.diagnose
        monkeypatch.setattr(findings, "diagnose", self)

    def __call__(self, trace: Trace, **how: Any) -> Diagnosis:
        self.asked.append(trace.name)
        return self.real(trace, **how)


# -- the count -------------------------------------------------------------------------------------


def test_the_count_is_of_the_runs_under_comparison(faulty: Path) -> None:
    runs, found = Runs(faulty), Findings()
    shown, known = told_of(runs, found, asked(runs))
    assert words(shown) == ["1 severe finding"]
    assert known["again"] is None
    shown, other = told_of(runs, found, asked(runs, a="muon", alone=True))
    assert words(shown) == ["no findings"]
    assert other["of"] != known["of"]


@pytest.mark.parametrize(
    ("severities", "said"),
    [
        ("", [("no findings", "quiet")]),
        ("note note", [("2 notes", "quiet")]),
        ("warning note", [("1 finding", "warning")]),
        ("severe", [("1 severe finding", "severe")]),
        ("severe severe note", [("2 severe findings", "severe")]),
        ("severe warning", [("2 findings", "warning"), ("1 severe", "severe")]),
    ],
)
def test_notes_are_no_findings_and_severe_ones_have_their_word(
    severities: str, said: list[tuple[str, str]]
) -> None:
    made = tuple(
        Finding("rule", one, "title", (), (), (), "", "")  # type: ignore[arg-type]
        for one in severities.split()
    )
    looked = findings.Looked("x", Diagnosis("x", made, ("rule",), {}), "", 0)
    assert head([looked]) == tuple(Piece(*one) for one in said)
    assert head([looked, None]) is None  # of another run nothing is known yet


def test_an_empty_folder_has_no_count(tmp_path: Path) -> None:
    runs, found = Runs(tmp_path), Findings()
    assert told_of(runs, found, asked(runs))[0] == []
    assert section_of(runs, found, asked(runs)) == []
    with pytest.raises(dash.exceptions.PreventUpdate):
        told_of(runs, found, None)


# -- what it costs ---------------------------------------------------------------------------------


def test_a_state_of_a_trace_is_diagnosed_once(
    faulty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diagnosed = Counted(monkeypatch)
    runs, found = Runs(faulty), Findings()
    for token in ("", "other"):
        for chosen in ({}, {"a": "muon", "alone": True}, {"a": FAULT, "b": "muon"}):
            told_of(runs, found, asked(runs, **chosen) | {"token": token})
            section_of(runs, found, asked(runs, **chosen))
    assert sorted(diagnosed.asked) == ["muon", FAULT]


def test_the_section_never_diagnoses(faulty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosed = Counted(monkeypatch)
    runs = Runs(faulty)
    assert words(section_of(runs, Findings(), asked(runs))).count("Not looked at yet.") == 2
    assert diagnosed.asked == []


def test_a_run_that_goes_on_is_diagnosed_again_but_not_all_the_time(
    fake: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diagnosed = Counted(monkeypatch)
    now = [0.0]

    def clock() -> float:
        now[0] += 0.5
        return now[0]

    writer = fake.write_run(tmp_path / "muon", "muon", steps=(0, 10), blocks=1, close=False)
    runs, found = Runs(tmp_path), Findings(clock)
    told_of(runs, found, asked(runs))
    fake.put_steps(writer, "muon", (20,))
    writer.flush()
    runs.refresh()
    _, known = told_of(runs, found, asked(runs))
    assert len(diagnosed.asked) == 1
    assert known["again"] is not None
    assert 0 < known["again"] <= findings.REST * 0.5
    assert "as of step 10" in text(section_of(runs, found, asked(runs)))
    now[0] += known["again"]
    _, known = told_of(runs, found, asked(runs))
    assert len(diagnosed.asked) == 2
    assert known["again"] is None
    assert "as of" not in text(section_of(runs, found, asked(runs)))
    fake.put_steps(writer, "muon", (30,))
    writer.close()
    runs.refresh()
    assert told_of(runs, found, asked(runs))[1]["again"] is None  # an ended one waits for nothing
    assert len(diagnosed.asked) == 3


def test_one_request_at_a_time_diagnoses(faulty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = threading.Event(), threading.Event()
    real = findings.diagnose

    def slow(trace: Trace, **how: Any) -> Diagnosis:
        begun.set()
        assert may_end.wait(20)
        return real(trace, **how)

    monkeypatch.setattr(findings, "diagnose", slow)
    monkeypatch.setattr(findings, "PATIENCE", 0.01)
    runs, found = Runs(faulty), Findings()
    first = threading.Thread(target=lambda: told_of(runs, found, asked(runs)))
    first.start()
    assert begun.wait(20)
    shown, known = told_of(runs, found, asked(runs))
    assert (shown, known["again"]) == ([], 1.0)
    may_end.set()
    first.join()
    assert words(told_of(runs, found, asked(runs))[0]) == ["1 severe finding"]


# -- the section -----------------------------------------------------------------------------------


def test_the_section_says_what_diagnose_says(faulty: Path) -> None:
    runs, found = Runs(faulty), Findings()
    told_of(runs, found, asked(runs))
    section = section_of(runs, found, asked(runs))
    assert [one.__class__.__name__ for one in section] == ["Article", "Article"]
    healthy, bad = section
    diagnosis = optgeom.diagnose(open_trace(faulty / FAULT))
    (one,) = diagnosis.findings
    said = words(bad)
    for expected in ("Severe", one.title, one.cause, one.advice, "steps 0 to 35 (8 captures)"):
        assert expected in said
    assert f"and {len(one.layers) - finding_words.FEW} more" in said
    assert f"1 severe · {len(diagnosis.judged)} of {len(RULES)} rules could look" in said
    assert [why for why in diagnosis.not_judged.values() if why not in said] == []
    rows = [row for row in kinds(bad) if row.__class__.__name__ == "Tr"][1:]
    assert len(rows) == len(one.evidence)
    worst = one.evidence[0]
    label, *kind = open_trace(faulty / FAULT).layer(worst.layer).label.split(" · ")[:2]
    assert words(rows[0]) == [
        f"{label} · {kind[0]}",
        str(worst.step),
        "Share of singular values near the largest",
        f"{one.evidence[0].value:.3g}",
        one.evidence[0].expected,
    ]
    count = len(optgeom.diagnose(open_trace(faulty / "muon")).judged)
    assert f"Nothing was found by {count} rules." in words(healthy)
    assert "Severe" not in words(healthy)


def test_a_layer_leads_to_balance_where_it_shows(faulty: Path) -> None:
    runs, found = Runs(faulty), Findings()
    told_of(runs, found, asked(runs))
    links = [one for one in kinds(section_of(runs, found, asked(runs))) if hasattr(one, "href")]
    worst = optgeom.diagnose(open_trace(faulty / FAULT)).findings[0].evidence[0]
    address = f"/?a=muon&b={quote(FAULT)}&layer={worst.layer}&step={worst.step}"
    assert address in [one.href for one in links]
    assert {one.href.partition("?")[0] for one in links} == {"/"}


def test_one_run_alone(faulty: Path) -> None:
    runs, found = Runs(faulty / FAULT), Findings()
    shown, _ = told_of(runs, found, asked(runs))
    assert words(shown) == ["1 severe finding"]
    (only,) = section_of(runs, found, asked(runs))
    assert "b=" in next(one.href for one in kinds(only) if hasattr(one, "href"))


def test_names_are_text(faulty: Path, tmp_path: Path) -> None:
    runs, found = Runs(faulty), Findings()
    told_of(runs, found, asked(runs))
    section = section_of(runs, found, asked(runs))
    assert FAULT in words(section)
    assert "dangerously" not in text(section)
    report = write_report(faulty, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img" not in section_in(report)
    assert "sgd &lt;img src=x onerror=alert(1)&gt;" in section_in(report)


def test_layers_that_would_share_a_label_are_written_by_name(
    fake: ModuleType, tmp_path: Path
) -> None:
    hostile = "<script>x</script>"
    fake.write_run(tmp_path / "muon", "muon", blocks=1, names=(hostile, "y"))
    trace = open_trace(tmp_path / "muon")
    layers: tuple[LayerInfo, ...] = trace.layers
    assert hostile in [layer.name for layer in layers]
    one = Finding("rule", "warning", "t", tuple(x.name for x in layers), (3,), (), "c", "a")
    looked = findings.Looked("muon", Diagnosis("muon", (one,), ("rule",), {}), "", 3)
    (told,) = of_run(trace, looked).findings
    assert [place.layer for place in told.layers] == [layer.name for layer in layers]
    assert len({place.label for place in told.layers}) == len(layers)
    assert {place.step for place in told.layers} == {3}


# -- what cannot be read ---------------------------------------------------------------------------


def test_a_rule_that_fails_leaves_the_others(faulty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = findings.diagnose

    def failing(trace: Trace, *, rules: Any = None) -> Diagnosis:
        if rules in (None, "lost_to_rounding"):
            raise ZeroDivisionError("division by zero")
        return real(trace, rules=rules)

    trace = open_trace(faulty / FAULT)
    whole = real(trace)
    monkeypatch.setattr(findings, "diagnose", failing)
    looked, is_whole = look_at(trace)
    assert not is_whole
    assert looked.diagnosis is not None
    assert looked.diagnosis.findings == whole.findings
    assert set(whole.judged) - set(looked.diagnosis.judged) == {"lost_to_rounding"}
    why = looked.diagnosis.not_judged["lost_to_rounding"]
    assert why == "could not look: division by zero"


def test_a_damaged_run_is_said_and_looked_at_again_once_it_is_mended(
    faulty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(trace: Trace, *, rules: Any = None) -> Diagnosis:
        raise OptgeomError("spectra/0.parquet is cut off")

    runs, found = Runs(faulty / "muon"), Findings(lambda: 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(findings, "diagnose", failing)
        shown, _ = told_of(runs, found, asked(runs))
        assert words(shown) == ["1 run not judged"]
        said = words(section_of(runs, found, asked(runs)))
        assert "Could not be judged: spectra/0.parquet is cut off" in said
        report = write_report(faulty / "muon", tmp_path / "report.html")
        assert "Could not be judged: spectra/0.parquet" in report.read_text(encoding="utf-8")
    again = asked(runs) | {"token": "retried"}
    assert words(told_of(runs, found, again)[0]) == ["no findings"]


def test_a_cut_segment_is_words(fake: ModuleType, tmp_path: Path) -> None:
    fake.write_run(tmp_path / "muon", "muon", blocks=1)
    (segment,) = (tmp_path / "muon" / "neurons").glob("*.parquet")
    segment.write_bytes(segment.read_bytes()[: segment.stat().st_size // 2])
    runs, found = Runs(tmp_path), Findings()
    sees = {"q": "?a=muon&b=", "token": runs.token()}
    assert words(told_of(runs, found, sees)[0]) == ["1 run not judged"]
    assert re.search(r"Could not be judged: .*is truncated", text(section_of(runs, found, sees)))


def test_unknown_runs_in_an_address_are_left_out(faulty: Path) -> None:
    runs = Runs(faulty)
    shown, _ = told_of(runs, Findings(), {"q": "?a=../../etc&b=muon", "token": "x"})
    assert words(shown) == ["no findings"]


# -- the report ------------------------------------------------------------------------------------


def test_the_report_has_the_section(faulty: Path, tmp_path: Path) -> None:
    page = write_report(faulty, tmp_path / "report.html").read_text(encoding="utf-8")
    section = section_in(page)
    (one,) = optgeom.diagnose(open_trace(faulty / FAULT)).findings
    for expected in (one.title, one.cause, one.advice, "Nothing was found by", "block 1 · mlp.up"):
        assert expected in section
    assert section.count('class="severe"') == 1
    assert "<a " not in section


# -- in a browser ----------------------------------------------------------------------------------


@pytest.mark.browser
def test_from_the_header_to_the_section_to_the_layer(
    open_page: Opener, shots: ModuleType, faulty: Path
) -> None:
    with shots.serving(faulty) as at:
        page = open_page(f"{at}/?step=20&theme=light").page
        page.wait_for_selector("#findings-count .severe")
        assert page.locator("img").count() == 0
        assert page.inner_text("#findings-count") == "1 severe finding"
        page.click("#findings-count")
        page.wait_for_url(re.compile(r"/runs\?.*step=20.*#findings$"))
        page.wait_for_selector("#findings-body article")
        page.wait_for_function("() => document.activeElement.id === 'findings-title'")
        top = page.evaluate("() => document.getElementById('findings').getBoundingClientRect().top")
        assert 0 <= top < 200
        section = page.inner_text("#findings")
        assert "are not orthogonal, although the optimizer is called Muon" in section
        assert FAULT in section
        assert "Likely cause" not in section
        page.focus("#findings li summary")
        page.keyboard.press("Enter")
        page.wait_for_selector("#findings .evidence")
        assert "Likely cause" in page.inner_text("#findings")
        link = page.locator("#findings .evidence a").first
        (layer,) = parse_qs(link.get_attribute("href").partition("?")[2])["layer"]
        _, block, kind = layer.split(".", 2)
        link.click()
        page.wait_for_url(re.compile(rf"/\?.*layer={re.escape(layer)}&.*step=\d+"))
        page.wait_for_function(
            "said => document.querySelector('.sentence').innerText.includes(said)",
            arg=f"{kind} of block {block}",
        )
        assert "theme=light" in page.url
        # the same by an address alone
        page.goto(f"{at}/runs?a=muon&b=#findings")
        page.wait_for_selector("text=Nothing was found by")
        assert page.inner_text("#findings-count") == "no findings"
        page.close()
