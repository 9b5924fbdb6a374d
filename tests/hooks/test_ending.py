"""At the end one line says what was saved, where, and what it cost."""

from __future__ import annotations

import gc
import logging
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch

from optgeom.hooks import watch
from optgeom.hooks.ending import sentence

SCRIPT = """
import logging, sys, torch, optgeom
{before}
model = torch.nn.Linear(6, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
rec = optgeom.watch(model, optimizer, "runs/a", every=2, budget=None)
for _ in range(5):
    model(torch.ones(2, 6)).sum().backward()
    optimizer.step()
{after}
"""
LINE = (
    r"runs/a: 3 captures of 1 layer, \d+ kB; [\d.e+]+ % of the run's time \(no budget\), "
    r"\d\.\d s of it in background(, \d+\.\d s to finish)?"
)


def stderr_of(folder: Path, before: str, after: str = "rec.close()") -> str:
    code = SCRIPT.format(before=before, after=after)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        ("", f"optgeom: {LINE}\n"),
        ("logging.basicConfig()", f"INFO:optgeom:{LINE}\n"),
        ("logging.basicConfig(level='INFO', format='%(message)s')", f"{LINE}\n"),
        ("logging.getLogger('optgeom').setLevel('WARNING')", ""),
        ("logging.disable()", ""),
    ],
    ids=["nothing-configured", "root", "root-info", "silenced", "disabled"],
)
def test_the_line_is_seen_once_however_logging_is_configured(
    before: str, wanted: str, tmp_path: Path
) -> None:
    assert re.fullmatch(wanted, stderr_of(tmp_path, before, "rec.close(); rec.close()"))


def test_the_line_comes_at_exit_too(tmp_path: Path) -> None:
    assert re.fullmatch(f"optgeom: {LINE}\n", stderr_of(tmp_path, "", ""))


def test_what_was_left_out_and_what_stopped_are_said() -> None:
    said = sentence(
        "a",
        captures=1,
        layers=2,
        size=2_500,
        share=0.12345,
        budget=0.01,
        background=0.04,
        closing=1.25,
        left_out={"budget": 40, "queue": 0, "writer": 2},
        failure=RuntimeError("broken\nin two lines"),
    )
    assert said == (
        "a: capture stopped (RuntimeError: broken), the run went on; 1 capture of 2 layers, 2 kB "
        "before; 12 % of the run's time (budget 1 %), 0.0 s of it in background, 1.2 s to finish; "
        "42 rows left out (budget 40, writer 2)"
    )


def test_a_run_of_which_no_step_was_captured_says_so(watched, bag, train, caplog) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caplog.at_level(logging.INFO, logger="optgeom"), watched(model, optimizer):
        pass
    assert "no step of the 3 layers was captured" in caplog.messages[-1]


def test_the_share_is_shown_while_the_run_goes_on_and_stands_still_after(
    watched, bag, train, opened
) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, optimizer) as recorder:
        train(model, optimizer, range(4))
        assert re.fullmatch(
            r"<Recorder of 3 layers, step 4, [\d.e+]+ % of the run>", repr(recorder)
        )
    shown = repr(recorder)
    assert "closed" in shown
    assert repr(recorder) == shown
    # seconds of several threads over the time of one: of a run as short as this it may exceed 1
    assert opened().scalars("capture_share")["value"][-1].as_py() > 0


def test_a_recorder_that_is_dropped_ends_by_itself_and_keeps_nothing(tmp_path, bag, train) -> None:
    threads = set(threading.enumerate())

    def run() -> list[weakref.ref[object]]:
        model = bag()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        recorder = watch(model, optimizer, tmp_path / "trace", every=1, budget=None)
        train(model, optimizer, range(3))
        return [weakref.ref(one) for one in (model, optimizer, recorder, model.tall)]

    left = run()
    gc.collect()
    for thread in set(threading.enumerate()) - threads:
        thread.join(20)
    gc.collect()
    assert [one() for one in left] == [None] * 4
    assert set(threading.enumerate()) <= threads  # others may have ended meanwhile
    import optgeom

    trace = optgeom.open_trace(tmp_path / "trace")
    assert trace.closed
    assert trace.steps("tall").tolist() == [0, 1, 2]
