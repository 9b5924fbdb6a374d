"""What stands beside the geometry: scalars of the user's and of the recorder's."""

from __future__ import annotations

import torch


def test_scalars_stand_beside_the_step_that_ended_last(watched, bag, train, opened) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, optimizer, every=2) as recorder:
        for step in range(3):
            train(model, optimizer, [step])
            recorder.log(loss=torch.tensor(step + 0.5), tokens=step)
        recorder.log(step=7, late=1.0)
    trace = opened()
    loss = trace.scalars("loss").select(["step", "value"]).to_pylist()
    assert loss == [{"step": step, "value": step + 0.5} for step in range(3)]
    assert trace.scalars("late")["step"].to_pylist() == [7]
    seconds = trace.scalars("capture_seconds")
    assert seconds["step"].to_pylist() == [0, 2]
    assert all(value > 0 for value in seconds["value"].to_pylist())
    elapsed = trace.scalars("elapsed_seconds")
    assert elapsed["step"].to_pylist() == [0, 1, 2, 7]
    assert elapsed["value"].to_pylist() == sorted(elapsed["value"].to_pylist())
    shares = trace.scalars("capture_share")["value"].to_pylist()
    background = trace.scalars("background_seconds")["value"].to_pylist()
    spent = [one + sum(seconds["value"].to_pylist()[: i + 1]) for i, one in enumerate(background)]
    logged = dict(zip(*(elapsed[name].to_pylist() for name in ("step", "value")), strict=True))
    # a share is of the time until its capture ended: after the log before it, before its own
    assert shares[0] >= spent[0] / logged[0] > 0
    assert spent[1] / logged[1] >= shares[1] >= spent[1] / logged[2]


def test_what_is_no_number_is_left_out_and_said_once(watched, bag, train, opened, caplog) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(model, optimizer, every=1) as recorder:
        for step in range(3):
            train(model, optimizer, [step])
            recorder.log(loss=torch.ones(2), text="none", tokens=step)
    assert recorder.failure is None
    trace = opened()
    assert trace.steps("tall").tolist() == [0, 1, 2]
    assert trace.scalars("tokens").num_rows == 3
    assert trace.scalars("loss").num_rows == 0
    said = [record.message for record in caplog.records if "left out" in record.message]
    assert len(said) == 2


def test_a_stage_that_the_optimizer_does_not_yield_is_said_once(
    watched, bag, train, caplog
) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stages = ("momentum", "ns_input", "update")
    with watched(model, optimizer, every=1, stages=stages):
        train(model, optimizer, range(3))
    said = [record.getMessage() for record in caplog.records if "is not recorded" in record.message]
    assert len(said) == 2
    assert "register_state_reader" in said[0]
    assert "optgeom.hooks.tap(parameter, 'ns_input', tensor)" in said[1]
