"""Compiled code in and around a watched step keeps its graphs and its bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

# the compiler's own messages are not ours
pytestmark = pytest.mark.filterwarnings("ignore")

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="inductor on a CPU needs a C++ compiler"
)
BACKENDS = [
    "aot_eager",
    pytest.param("inductor", marks=[pytest.mark.slow, needs_compiler]),
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def newton_schulz(matrix: Tensor) -> Tensor:
    x = matrix.bfloat16() / (matrix.norm() + 1e-7)
    for _ in range(3):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x


class Orthogonal(torch.optim.Optimizer):
    """An eager step that calls a compiled iteration."""

    def __init__(self, params: Any, backend: str) -> None:
        super().__init__(params, {"lr": 0.01})
        self.iteration = torch.compile(newton_schulz, backend=backend)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            p.add_(self.iteration(p.grad), alpha=-0.01)


def eager(optimizer: Any, backend: str) -> Callable[[], Any]:
    return lambda: optimizer.step()


def around(optimizer: Any, backend: str) -> Callable[[], Any]:
    return torch.compile(lambda: optimizer.step(), backend=backend)


def replaced(optimizer: Any, backend: str) -> Callable[[], Any]:
    optimizer.step = torch.compile(optimizer.step, backend=backend)
    return lambda: optimizer.step()


def adamw(params: Any, backend: str) -> Any:
    return torch.optim.AdamW(params, lr=torch.tensor(0.01), foreach=False)


def go(
    build: Any, compile_step: Any, backend: str, model: Any, give_gradients: Any, watch: Any
) -> tuple[list[Tensor], int, int]:
    counters.clear()
    torch._dynamo.reset()
    optimizer = build(model.parameters(), backend)
    recorder = watch(model, optimizer) if watch is not None else None
    step = compile_step(optimizer, backend)
    for index in range(4):
        give_gradients(model, index)
        step()
    if recorder is not None:
        recorder.close()
        assert recorder.failure is None
    stats = counters["stats"]
    weights = [p.detach().clone() for p in model.parameters()]
    return weights, stats["unique_graphs"], stats["calls_captured"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("build", "compile_step", "source"),
    [
        (Orthogonal, eager, "dispatch"),
        (adamw, around, "difference"),
        (adamw, replaced, "difference"),
    ],
    ids=["compiled-inside", "compiled-around", "compiled-step"],
)
def test_graphs_and_bits_are_those_of_an_unwatched_run(
    build, compile_step, source, backend, bag, give_gradients, watched, opened
) -> None:
    plain = go(build, compile_step, backend, bag(), give_gradients, None)
    seen = go(
        build,
        compile_step,
        backend,
        bag(),
        give_gradients,
        lambda *a: watched(*a, every=2),
    )
    assert all(torch.equal(a, b) for a, b in zip(plain[0], seen[0], strict=True))
    assert plain[1:] == seen[1:]
    assert plain[1] >= 1
    rows = opened().metrics(steps=[2]).to_pylist()
    if backend == "inductor":  # its kernels show no operation
        assert {(row["source"], row["status"]) for row in rows} == {(source, "ok")}
    assert {row["status"] for row in rows} == {"ok"}
