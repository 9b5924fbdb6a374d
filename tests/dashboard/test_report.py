from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from plotly.offline import get_plotlyjs

from optgeom.dashboard import write_report
from optgeom.traces.errors import OptgeomError

PLOTLY = len(get_plotlyjs().encode())


@pytest.fixture(scope="module")
def report(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(demo, tmp_path_factory.mktemp("report") / "deep" / "report.html")


def _page(path: Path) -> str:
    """The file without plotly's own source."""
    return path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")


def test_it_is_one_file_below_five_megabytes_and_plotly(report: Path) -> None:
    assert report.stat().st_size < PLOTLY + 5_000_000
    assert report.read_text(encoding="utf-8").count(get_plotlyjs()) == 1
    assert [one.name for one in report.parent.iterdir()] == ["report.html"]


def test_it_loads_nothing(report: Path) -> None:
    page = _page(report)
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:src|href)=|https?://|@import|url\(", page)


def test_it_holds_the_sentence_the_numbers_and_every_run(report: Path) -> None:
    page = _page(report)
    assert "At step 40 NorMuon spreads mlp.up of block 1 over its neurons" in page
    for word in ("condition number", "AdamW", "Layers by neuron-norm CV", "Configuration"):
        assert word in page
    figures = json.loads(re.findall(r"const figures=(\[.*\]);const config", page)[0])
    # ten of the first layer, two of the first layer of each other kind, all layers, the loss
    assert len(figures) == 10 + 2 * 5 + 2
    assert page.count('class="figure"') == len(figures)
    assert page.count('class="bar"') == 3
    assert "1/4 or less" in page


def test_chosen_runs_layers_and_steps(demo: Path, tmp_path: Path) -> None:
    path = write_report(
        demo,
        tmp_path / "r.html",
        a="adamw",
        b="muon",
        layers=["blocks.0.attention.q.weight"],
        steps=[0, 20],
    )
    page = _page(path)
    assert "At step 0 Muon spreads attention.q of block 0" in page
    assert "At step 20 Muon spreads attention.q of block 0" in page
    assert page.count('class="part"') == 2


def test_one_run_alone(demo: Path, tmp_path: Path) -> None:
    page = _page(write_report(demo / "adamw", tmp_path / "r.html"))
    assert "<h1>AdamW</h1>" in page
    assert "Nothing differs." in page


def test_a_run_that_holds_one_other_stage_is_not_empty(broken: ModuleType, tmp_path: Path) -> None:
    run = broken.train(tmp_path / "x", stages=("gradient",))
    page = _page(write_report(run, tmp_path / "r.html"))
    assert "At step 5 x spreads the gradient of 0 over its neurons" in page
    figures = json.loads(re.findall(r"const figures=(\[.*\]);const config", page)[0])
    assert len(figures) == 2 + 1 + 2 + 1 + 1 + 2
    assert all(figure["data"] for figure in figures)


def test_hostile_names_are_text(hostile: Path, tmp_path: Path) -> None:
    layers = [
        "<b>bold</b><script>document.title='hacked'</script>",
    ]
    page = _page(write_report(hostile, tmp_path / "r.html", layers=layers))
    assert "<b>bold" not in page
    assert "<script>document" not in page
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert "&lt;b&gt;bold" in page


def test_wrong_use_leaves_nothing_behind(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(OptgeomError, match="no run 'lion'"):
        write_report(demo, tmp_path / "r.html", b="lion")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OptgeomError, match="holds no run"):
        write_report(tmp_path / "empty", tmp_path / "r.html")
    with pytest.raises(OptgeomError, match="cannot write"):
        write_report(demo, tmp_path / "file" / "r.html")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["empty", "file"]
