"""Watching changes nothing of the run, and no failure of ours reaches it."""

from __future__ import annotations

import copy
import logging
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

import optgeom.hooks.records
from optgeom.hooks import tap
from optgeom.optim import Muon, NorMuon
from optgeom.traces.writer import TraceWriter

ALL_STAGES = ("gradient", "momentum", "ns_input", "orthogonalized", "update", "weight")
BUILDERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.01, momentum=0.9, weight_decay=0.01),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01, foreach=False),
    "adamw-foreach": lambda ps: torch.optim.AdamW(ps, lr=0.01, foreach=True),
    "adamw-fused": lambda ps: torch.optim.AdamW(ps, lr=0.01, fused=True),
    "torch-muon": lambda ps: torch.optim.Muon(ps, lr=0.01),
    "normuon": lambda ps: NorMuon(ps, lr=0.01),
    "muon": lambda ps: Muon(ps, lr=0.01, weight_decay=0.1),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.up = nn.Linear(8, 16, bias=False)
        self.down = nn.Linear(16, 8, bias=False)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 4)

    def forward(self, x: Tensor) -> Tensor:
        # dropout draws from the global generator: its state shows if anything of ours draws too
        return self.down(torch.nn.functional.dropout(self.up(x).relu(), 0.1))


def loss_of(model: nn.Module) -> Tensor:
    x = torch.randn(32, 8)
    return (model(x) - x.flip(1)).square().mean()


def run(build: Callable[[Any], Any], steps: int, watch: Callable[..., Any] | None) -> list[Tensor]:
    torch.manual_seed(0)
    model = Net()
    optimizer = build(model.parameters())
    recorder = None if watch is None else watch(model, optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        if recorder is not None:
            recorder.log(loss=loss)
        if step == 3 and recorder is not None:
            recorder.capture_next()
    if recorder is not None:
        recorder.close()
    return [p.detach().clone() for p in model.parameters()] + [torch.get_rng_state()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_run_is_bitwise_the_same_with_and_without_watching(name: str, watched) -> None:
    plain = run(BUILDERS[name], 8, None)
    seen = run(BUILDERS[name], 8, lambda *a: watched(*a, every=2, stages=ALL_STAGES))
    assert same(plain, seen)


def spectral_norm(matrix: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrix, 2)


class Normalized(torch.optim.Optimizer):
    """Calls what a dispatch mode would answer with other bits."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            p.add_(p.grad / spectral_norm(p.grad), alpha=-0.1)


def test_an_optimizer_that_asks_for_singular_values_keeps_its_bits(
    watched, bag, train, opened
) -> None:
    weights = []
    for watch in (None, watched):
        model = bag(shapes={"weight": (40, 30)})
        optimizer = Normalized(model.parameters())
        recorder = watch(model, optimizer) if watch is not None else None
        train(model, optimizer, range(6))
        if recorder is not None:
            recorder.close()
        weights.append(model.weight.detach())
    assert torch.equal(*weights)
    assert set(opened().metrics()["source"].to_pylist()) == {"difference"}


def test_a_hidden_call_for_singular_values_is_found_at_the_first_capture(
    watched, bag, train, opened, tmp_path
) -> None:
    class Hidden(torch.optim.Optimizer):
        norm = staticmethod(torch.linalg.svdvals)

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad / self.norm(p.grad)[0])

    class Vectors(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for p in self.param_groups[0]["params"]:
                p.sub_(torch.linalg.svd(p.grad, full_matrices=False)[0] @ torch.eye(5))

    sources = {}
    for cls in (Hidden, Vectors):
        model = bag(shapes={"weight": (8, 5)})
        with watched(
            model, cls(model.parameters(), {"lr": 1.0}), out=tmp_path / cls.__name__
        ) as recorder:
            train(model, recorder._optimizers[0], range(3))
        sources[cls] = opened(cls.__name__).metrics()["source"].to_pylist()
    assert sources[Hidden] == ["dispatch", "difference", "difference"]
    assert sources[Vectors] == ["dispatch"] * 3


def test_close_gives_everything_back(watched, bag, train) -> None:
    threads = set(threading.enumerate())
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watched(model, optimizer)
    train(model, optimizer, [0, 1])
    recorder.close()
    recorder.close()
    assert set(threading.enumerate()) == threads
    assert "step" not in vars(optimizer)
    assert not _get_current_dispatch_mode_stack()


def test_an_exception_inside_the_step_leaves_nothing_behind(watched, bag, train, opened) -> None:
    class Fragile(torch.optim.SGD):
        broken = False

        def step(self, closure: Any = None) -> Any:
            if self.broken:
                raise FloatingPointError("broken on purpose")
            return super().step(closure)

    model = bag()
    optimizer = Fragile(model.parameters(), lr=0.1)
    with watched(model, optimizer):
        train(model, optimizer, [0])
        optimizer.broken = True
        with pytest.raises(FloatingPointError, match="on purpose"):
            train(model, optimizer, [1])
        assert not _get_current_dispatch_mode_stack()
        optimizer.broken = False
        train(model, optimizer, [2])
    trace = opened()
    assert trace.steps("tall").tolist() == [0, 1]  # a step that failed is none
    assert torch.allclose(torch.from_numpy(trace.matrix(1, "tall")), model.tall.grad)


def broken(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("broken on purpose")


def break_norms(monkeypatch) -> None:
    monkeypatch.setattr(optgeom.hooks.records, "measure_norms", broken)


def break_spectra(monkeypatch) -> None:
    monkeypatch.setattr(optgeom.hooks.records, "measure_spectrum", broken)


def break_reading(monkeypatch) -> None:
    monkeypatch.setattr("optgeom.hooks.reading.Reading.before", broken)


def break_beginning(monkeypatch) -> None:
    monkeypatch.setattr("optgeom.hooks.capture.Reading", broken)


def break_taps(monkeypatch) -> None:
    monkeypatch.setattr("optgeom.hooks.reading.Reading.tap", broken)


def break_samples(monkeypatch) -> None:
    monkeypatch.setattr("optgeom.hooks.slot.predicts", broken)


def break_writing(monkeypatch) -> None:
    monkeypatch.setattr("optgeom.traces.sink.TableLog.flush", broken)


BREAKS = [
    break_norms,
    break_spectra,
    break_reading,
    break_beginning,
    break_taps,
    break_samples,
    break_writing,
]


@pytest.mark.parametrize("break_it", BREAKS)
def test_a_failure_of_ours_stops_the_capture_alone(
    break_it, watched, monkeypatch, caplog, opened
) -> None:
    plain = run(BUILDERS["normuon"], 8, None)
    recorders = []

    def attach(model: nn.Module, optimizer: Any) -> Any:
        break_it(monkeypatch)
        recorders.append(watched(model, optimizer, stages=ALL_STAGES))
        return recorders[0]

    with caplog.at_level(logging.WARNING, logger="optgeom"):
        seen = run(BUILDERS["normuon"], 8, attach)
    assert same(plain, seen)
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "broken on purpose" in errors[0].getMessage()
    assert "broken on purpose" in str(recorders[0].failure)
    assert not _get_current_dispatch_mode_stack()
    if break_it is not break_writing:
        assert opened().scalars("capture_stopped").num_rows == 1


@pytest.mark.parametrize("break_it", BREAKS)
def test_strict_raises_instead(break_it, watched, monkeypatch, bag, train) -> None:
    model = bag()
    optimizer = NorMuon(model.parameters(), lr=0.1)
    break_it(monkeypatch)

    def go() -> None:
        with watched(model, optimizer, strict=True, stages=ALL_STAGES):
            train(model, optimizer, range(3))

    with pytest.raises(RuntimeError, match="on purpose"):
        go()


@pytest.mark.parametrize("first", ["scheduler", "watch"])
def test_learning_rate_schedulers_before_and_after(first: str, watched, bag, train, opened) -> None:
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def schedule() -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    scheduler = schedule() if first == "scheduler" else None
    recorder = watched(model, optimizer)
    scheduler = scheduler or schedule()
    for step in range(3):
        train(model, optimizer, [step])
        scheduler.step()  # warns, and so fails, if it misses the wrapped step
    recorder.close()
    train(model, optimizer, [3])
    scheduler.step()
    trace = opened()
    assert trace.metrics(layers=["tall"])["lr"].to_pylist() == [0.1, 0.05, 0.025]
    torch.optim.lr_scheduler.StepLR(optimizer, 1)


def test_scaled_steps_that_are_skipped_do_not_count(watched, bag, give_gradients, opened) -> None:
    model = bag()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
    stages = ("gradient", "update")
    truth = []
    with watched(model, optimizer, stages=stages):
        for step in range(4):
            give_gradients(model, step)
            truth.append(model.tall.grad.clone())
            for p in model.parameters():
                p.grad.mul_(scaler.get_scale())
            if step == 1:
                model.tall.grad[0, 0] = float("inf")
            scaler.scale(torch.zeros(()))
            scaler.step(optimizer)
            scaler.update()
    trace = opened()
    assert trace.steps("tall").tolist() == [0, 1, 2]
    for step, index in enumerate((0, 2, 3)):
        found = torch.from_numpy(trace.matrix(step, "tall", "gradient"))
        assert torch.allclose(found, truth[index])


@pytest.mark.parametrize("close_first", [0, 1])
def test_two_recorders_share_one_optimizer(close_first, watched, bag, train, opened, tmp_path):
    model = bag()
    optimizer = NorMuon(model.parameters(), lr=0.1)
    recorders = [
        watched(model, optimizer, out=tmp_path / "a", stages=ALL_STAGES),
        watched(model, optimizer, out=tmp_path / "b", stages=ALL_STAGES, every=2, updates_every=2),
    ]
    train(model, optimizer, range(3))
    recorders[close_first].close()
    train(model, optimizer, range(3, 5))
    recorders[1 - close_first].close()
    assert "step" not in vars(optimizer)
    first, second = opened("a"), opened("b")
    for step in (0, 2):
        for stage in ALL_STAGES:
            assert (first.matrix(step, "tall", stage) == second.matrix(step, "tall", stage)).all()
    assert first.last_step == (2 if close_first == 0 else 4)
    assert second.last_step == (4 if close_first == 0 else 2)


def test_a_copy_of_a_watched_optimizer_is_not_watched(
    watched, bag, train, opened, tmp_path
) -> None:
    class Plain:
        """No torch.optim.Optimizer, so that a copy takes the wrapped step along."""

        def __init__(self, params: list[nn.Parameter]) -> None:
            self.param_groups = [{"params": params, "lr": 1.0}]

        @torch.no_grad()
        def step(self) -> None:
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad)

    for optimizer_class in (Plain, lambda ps: torch.optim.SGD(ps, lr=1.0)):
        model = bag()
        optimizer = optimizer_class(list(model.parameters()))
        name = type(optimizer).__name__
        with watched(model, optimizer, out=tmp_path / name):
            train(model, optimizer, [0])
            before = model.tall.detach().clone()
            other = copy.deepcopy(optimizer)
            for p in other.param_groups[0]["params"]:
                p.grad = torch.ones_like(p)
            copied = other.param_groups[0]["params"][0].detach().clone()
            other.step()
            assert torch.equal(model.tall, before)
            assert not torch.equal(other.param_groups[0]["params"][0], copied)
        assert opened(name).last_step == 0


def test_a_watched_optimizer_can_be_pickled(watched, bag, train) -> None:
    model = bag()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with watched(model, optimizer):
        train(model, optimizer, [0])
        loaded = pickle.loads(pickle.dumps(optimizer))
    assert loaded.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_a_nested_super_step_is_recorded_once(watched, bag, train, opened) -> None:
    class Clipping(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            result = super().step(closure)
            for p in self.param_groups[0]["params"]:
                p.mul_(0.5)
            return result

    model = bag()
    before = model.tall.detach().clone()
    optimizer = Clipping(model.parameters(), lr=0.1)
    with watched(model, optimizer):
        train(model, optimizer, [0])
    trace = opened()
    assert trace.steps("tall").tolist() == [0]
    row = trace.metrics(layers=["tall"]).to_pylist()[0]
    update = torch.from_numpy(trace.matrix(0, "tall"))
    assert torch.allclose((1 - row["decay"]) * before - 0.1 * update, model.tall, atol=1e-6)


def test_a_mode_that_the_step_leaves_behind_is_not_popped(watched, bag, train) -> None:
    class Stray(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    stray = Stray()

    class Careless(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            stray.__enter__()
            return super().step(closure)

    model = bag()
    optimizer = Careless(model.parameters(), lr=0.1)
    with watched(model, optimizer) as recorder:
        train(model, optimizer, [0])
        assert _get_current_dispatch_mode_stack()[-1] is stray
        stray.__exit__(None, None, None)
        for mode in reversed(_get_current_dispatch_mode_stack()):
            mode.__exit__(None, None, None)  # ours beneath it, inert
        assert recorder.failure is None


def test_a_tap_without_a_watcher_costs_nothing_and_a_wrong_stage_is_named() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    tap(weight, "ns_input", weight)
    with pytest.raises(ValueError, match=r"stage must be one of .*got 'update'"):
        tap(weight, "update", weight)


def test_a_third_party_optimizer_can_hand_its_stages_over(watched, bag, train, opened) -> None:
    class Tapping(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            for p in self.param_groups[0]["params"]:
                live = p.grad * 2
                tap(p, "ns_input", live)
                live.zero_()
            return super().step(closure)

    model = bag()
    optimizer = Tapping(model.parameters(), lr=0.1)
    with watched(model, optimizer, stages=("ns_input", "update")):
        train(model, optimizer, [0])
    found = torch.from_numpy(opened().matrix(0, "wide", "ns_input"))
    assert torch.equal(found, model.wide.grad * 2)


def test_a_writer_without_a_listener_is_never_reached_after_close(watched, bag, train, monkeypatch):
    model = bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watched(model, optimizer)
    recorder.close()
    monkeypatch.setattr(TraceWriter, "metrics", broken)
    train(model, optimizer, [0])
    recorder.log(loss=1.0)
    recorder.advance()
    recorder.capture_next()
    assert recorder.failure is None
