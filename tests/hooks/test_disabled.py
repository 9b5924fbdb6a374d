"""`OPTGEOM_DISABLED=1`: the code stays as it is, and nothing is watched."""

from __future__ import annotations

import copy
import inspect
import logging
import pickle
import threading

import pytest
import torch
from torch import nn

from optgeom.hooks import Recorder, WatchError, watch
from optgeom.hooks.disabled import Disabled


@pytest.fixture(autouse=True)
def _disabled(monkeypatch) -> None:
    monkeypatch.setenv("OPTGEOM_DISABLED", "1")


def test_it_has_the_surface_of_a_recorder() -> None:
    special = ("__enter__", "__exit__", "__repr__", "__init__")
    named = {name: one for name, one in vars(Recorder).items() if not name.startswith("_")}
    public = named | {name: getattr(Recorder, name) for name in special}
    internal = {"begin", "run", "passed", "interrupted", "closure_returned", "forked"}
    for name, member in public.items():
        if name in internal:
            continue
        own = vars(Disabled)[name]
        assert type(own) is type(member)
        if inspect.isfunction(member) and name != "__init__":
            mine, its = (inspect.signature(one) for one in (own, member))
            assert [*mine.parameters.values()][1:] == [*its.parameters.values()][1:]  # but self
            assert mine.return_annotation == its.return_annotation


def test_it_does_nothing_and_says_so(tmp_path, bag, train, caplog) -> None:
    threads = set(threading.enumerate())
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        caplog.at_level(logging.INFO, logger="optgeom"),
        watch(model, optimizer, tmp_path / "run", start_step=7) as recorder,
    ):
        assert "step" not in vars(optimizer)
        recorder.capture_next()
        train(model, optimizer, range(2))
        recorder.log(loss=torch.ones(3), text="anything")
        with recorder.applying():
            recorder.advance()
        assert (recorder.step, recorder.failure) == (7, None)
        assert isinstance(recorder, Recorder)
        assert "captured: 0 matrices" in str(recorder.describe())
        assert "nothing" in repr(recorder)
    recorder.close()
    assert list(tmp_path.iterdir()) == []
    assert set(threading.enumerate()) <= threads  # others may have ended meanwhile
    (said,) = caplog.messages
    assert "OPTGEOM_DISABLED is set: nothing is captured" in said
    assert str(tmp_path / "run") in said


def test_what_would_be_refused_for_the_run_s_sake_is_not(tmp_path, bag) -> None:
    """An existing trace, a pattern that names nothing: the code may stay as it is."""
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer, tmp_path / "run", layers="no such layer").close()
    other = torch.optim.SGD([nn.Parameter(torch.zeros(2, 2))], lr=0.1)
    watch(model, other, tmp_path / "run").close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"every": 0}, "every must be"),
        ({"budget": 2.0}, "budget must be"),
        ({"when_full": "x"}, "x"),
    ],
)
def test_arguments_of_the_wrong_kind_still_raise(wrong, message, tmp_path, bag) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(WatchError, match=message):
        watch(model, optimizer, tmp_path / "run", **wrong)


@pytest.mark.parametrize("value", ["", "0", "false", "No", "off"])
def test_values_that_mean_no(value: str, watched, bag, train, opened, monkeypatch) -> None:
    monkeypatch.setenv("OPTGEOM_DISABLED", value)
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, optimizer):
        train(model, optimizer, range(2))
    assert opened().steps("tall").tolist() == [0, 1]


def test_a_copy_or_pickle_of_a_recorder_records_nothing(
    watched, bag, train, opened, monkeypatch
) -> None:
    monkeypatch.delenv("OPTGEOM_DISABLED")
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, optimizer) as recorder:
        train(model, optimizer, [0])
        model.recorder = recorder  # as trainers keep it: what is copied takes it along
        other = copy.deepcopy(model)
        assert isinstance(other.recorder, Disabled)
        assert isinstance(pickle.loads(pickle.dumps(recorder)), Disabled)
        assert isinstance(copy.copy(recorder), Disabled)
        assert isinstance(copy.deepcopy(other.recorder), Disabled)
        other.recorder.log(loss=1.0)
        other.recorder.close()
        train(model, optimizer, [1])
    assert opened().steps("tall").tolist() == [0, 1]
    assert opened().scalars("loss").num_rows == 0
