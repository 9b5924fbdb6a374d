"""What is refused at `watch` where there are sinks: none of them has been opened by then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import optgeom
from optgeom.hooks import WatchError
from optgeom.sinks import Point, Series
from optgeom.traces.errors import TraceError, TraceExists


class Kept:
    def __init__(self, series: Series | None = None) -> None:
        self.series = series
        self.calls: list[str] = []

    def open(self, run: str) -> None:
        self.calls.append("open")

    def send(self, points: Sequence[Point]) -> None:
        pass

    def close(self) -> None:
        self.calls.append("close")


def watch(out: Path, sink: Kept, width: int = 12, **settings: Any) -> optgeom.hooks.Recorder:
    model = nn.Sequential(nn.Linear(8, width), nn.Linear(width, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return optgeom.watch(model, optimizer, out, also=[sink], **settings)


def there(out: Path) -> None:
    watch(out, Kept()).close()


def a_file(out: Path) -> None:
    out.write_text("no folder")


REFUSED: dict[str, tuple[Callable[[Path], None], dict[str, Any], type[TraceError], str]] = {
    "exists": (there, {}, TraceExists, "pass start_step=N"),
    "file": (a_file, {}, TraceError, "cannot be written"),
    "another-model": (there, {"width": 16, "start_step": 4}, TraceError, "write another model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_place_is_refused_before_a_sink_is_opened(name: str, tmp_path: Path) -> None:
    prepare, settings, kind, message = REFUSED[name]
    prepare(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    sink = Kept()
    with pytest.raises(kind, match=message):
        watch(tmp_path / "run", sink, **settings)
    assert sink.calls == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_trace_that_is_being_written_is_refused_before(tmp_path: Path) -> None:
    with watch(tmp_path / "run", Kept()):
        sink = Kept()
        with pytest.raises(TraceError, match="is being written by process"):
            watch(tmp_path / "run", sink, start_step=3)
        assert sink.calls == []
    watch(tmp_path / "run", sink, start_step=3).close()
    assert sink.calls == ["open", "close"]
    attempts = optgeom.open_trace(tmp_path / "run").info.attempts
    assert [one.start_step for one in attempts] == [0, 3]


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ({"stages": ("momentum",)}, "Kept wants the stage 'momentum', .* records 'update'"),
        ({"layers": ("mlp.down",)}, "'mlp.down', which names no captured matrix: there are 0, 1"),
    ],
)
def test_what_this_watch_cannot_fill_is_said(
    series: dict[str, Any], message: str, tmp_path: Path
) -> None:
    sink = Kept(Series(**series))
    with pytest.raises(WatchError, match=message):
        watch(tmp_path / "run", sink)
    assert sink.calls == []
    assert not (tmp_path / "run").exists()


def test_what_it_can_fill_is_not(tmp_path: Path) -> None:
    series = Series(stages=("momentum",), layers=("^0",))
    watch(tmp_path / "a", Kept(series), stages=("momentum",)).close()
    loss_alone = Series(metrics=(), scalars=("loss",))
    watch(tmp_path / "b", Kept(loss_alone), stages=("momentum",)).close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"metrics": 5},
        {"metrics": (5,)},
        {"stages": None},
        {"layers": (5,)},
        {"scalars": (None,)},
        {"prefix": None},
        {"prefix": ""},
    ],
)
def test_a_series_of_the_wrong_types_is_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(WatchError, match=rf"Series\({name}=...\) takes"):
        Series(**wrong)
