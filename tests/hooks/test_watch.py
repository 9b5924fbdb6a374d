"""Wrong use raises at `watch`, in one line, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from optgeom.hooks import WatchError, register_state_reader, watch
from optgeom.traces.errors import OptgeomError, TraceError, TraceExists


class Slotted:
    __slots__ = ("param_groups",)

    def __init__(self, params: Any) -> None:
        self.param_groups = [{"params": list(params)}]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": "gpt"}, "model must be a torch.nn.Module, got str"),
    "no-optimizer": ({"optimizer": []}, "one optimizer or several, got none"),
    "not-one": ({"optimizer": object()}, "an optimizer needs param_groups, object has none"),
    "slots": ({"optimizer": Slotted([])}, "Slotted has no room for a wrapped step"),
    "stages-string": ({"stages": "update"}, r'stages takes a tuple of names such as \("update",\)'),
    "no-stages": ({"stages": ()}, "stages takes a tuple of names"),
    "stage": ({"stages": ("update", "moved")}, "stages must be among .*got 'moved'"),
    "budget": ({"budget": 2.0}, "budget must be a share between 0 and 1, or None, got 2.0"),
    "budget-zero": ({"budget": 0}, "budget must be a share between 0 and 1"),
    "every": ({"every": 0}, "every must be an integer"),
    "spectra": ({"every": 4, "spectra_every": 6}, "spectra_every must be a multiple"),
    "layers": ({"layers": "mlp.up"}, "layers='mlp.up' names no matrix"),
    "start": ({"start_step": -1}, "start_step must be an integer of at least 0, got -1"),
    "foreign": (
        {"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(2, 2))], lr=0.1)},
        "nothing to capture: the watched optimizer does not hold it",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_raises_in_one_line_and_leaves_nothing(name: str, bag, tmp_path: Path) -> None:
    wrong, message = WRONG[name]
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = {"model": model, "optimizer": optimizer, "out": tmp_path / "deep" / "run"} | wrong
    with pytest.raises(OptgeomError, match=message) as error:
        watch(given.pop("model"), given.pop("optimizer"), given.pop("out"), **given)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert "step" not in vars(optimizer)


def test_one_optimizer_twice_is_refused(bag, tmp_path) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(WatchError, match="each optimizer is watched once"):
        watch(model, [optimizer, optimizer], tmp_path / "run")


def test_an_existing_trace_is_left_alone_unless_a_new_attempt_is_asked_for(
    bag, train, watched, opened, tmp_path
) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, optimizer):
        train(model, optimizer, range(4))
    files = sorted(p.name for p in (tmp_path / "trace").rglob("*"))
    with pytest.raises(TraceExists, match="start_step"):
        watched(model, optimizer)
    assert sorted(p.name for p in (tmp_path / "trace").rglob("*")) == files
    assert "step" not in vars(optimizer)
    with watched(model, optimizer, start_step=2) as recorder:
        assert recorder.step == 2
        train(model, optimizer, range(2))
    trace = opened()
    assert [attempt.start_step for attempt in trace.info.attempts] == [0, 2]
    rows = trace.metrics(layers=["tall"]).to_pylist()
    assert [(r["step"], r["attempt"]) for r in rows] == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_a_folder_that_cannot_be_made_is_said(bag, tmp_path) -> None:
    (tmp_path / "file").write_text("no folder")
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TraceError):
        watch(model, optimizer, tmp_path / "file" / "run")
    assert "step" not in vars(optimizer)


def test_run_json_describes_the_run(bag, watched, opened, tmp_path) -> None:
    model = bag()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    watched(model, optimizer, run="mine", config={"seed": 3}, stages=("gradient", "update"))
    info = opened().info
    assert (info.run, info.config["seed"], info.world_size) == ("mine", 3, 1)
    assert info.optimizers[0].type == "torch.optim.adamw.AdamW"
    assert info.optimizers[0].groups[0]["weight_decay"] == 0.01
    assert info.capture["stages"] == ["gradient", "update"]
    assert info.capture["every"] == 1


def test_the_run_is_named_after_its_folder(bag, tmp_path, opened) -> None:
    model = bag()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for out in (f"{tmp_path}/a/", tmp_path / "b"):
        watch(model, optimizer, out).close()
    assert [opened(name).info.run for name in ("a", "b")] == ["a", "b"]


def test_a_registered_reader_tells_where_the_momentum_is(bag, train, watched, opened) -> None:
    class Odd(torch.optim.SGD):
        pass

    def reader(optimizer: Any, parameter: torch.Tensor) -> torch.Tensor:
        return optimizer.state[parameter]["momentum_buffer"] * 2

    register_state_reader(Odd, reader)
    model = bag()
    optimizer = Odd(model.parameters(), lr=0.1, momentum=0.9)
    with watched(model, optimizer, stages=("momentum",)):
        train(model, optimizer, [0])
    assert (opened().matrix(0, "tall", "momentum") == 2 * model.tall.grad.numpy()).all()
    with pytest.raises(WatchError, match="register_state_reader takes a class and a function"):
        register_state_reader("Odd", reader)
