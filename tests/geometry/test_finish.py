from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from optgeom.geometry import METRICS, Context, Partial, finish_norms, measure_norms, norms_pass
from optgeom.geometry.overlaps import length
from optgeom.traces.errors import OptgeomError

SHAPES = [(12, 30), (30, 12), (12, 30), (1, 9), (9, 1), (70, 64), (12, 64)]


def _case(shape: tuple[int, int], rng: np.random.Generator) -> tuple[torch.Tensor, Context]:
    matrix, weight, gradient, before = (
        torch.from_numpy(x).float() for x in rng.standard_normal((4, *shape))
    )
    context = Context(
        lr=0.1,
        weight=weight,
        gradient=gradient,
        previous_sketch=norms_pass(before).sketch,
        steps_since_previous=3,
        second_moment_steps=2,
    )
    return matrix, context


def test_rows_finished_together_are_the_rows_one_by_one(rng: np.random.Generator) -> None:
    cases = [_case(shape, rng) for shape in SHAPES]
    cases[2][0].zero_()
    cases[3][0].fill_(torch.nan)
    cases.append((cases[0][0].double(), Context(stage="momentum")))
    cases.append((cases[0][0].bfloat16(), replace(cases[0][1], rows_only=True)))
    together = finish_norms([norms_pass(matrix, context) for matrix, context in cases])
    assert len(together) == len(cases)
    for row, (matrix, context) in zip(together, cases, strict=True):
        alone = measure_norms(matrix, context)
        assert list(row.values) == list(alone.values)
        for name, value in alone.values.items():
            same = value if value is None or isinstance(value, str) else pytest.approx(value)
            assert row.values[name] == same, name
        assert np.array_equal(row.neuron_norms, alone.neuron_norms, equal_nan=True)
        assert (row.sketch is None) == (alone.sketch is None)
    assert together[2].values["status"] == "zero"
    assert together[3].values["status"] == "non_finite"
    assert finish_norms([]) == []


def test_what_was_read_may_be_written_to(rng: np.random.Generator) -> None:
    matrix, context = _case((70, 64), rng)
    expected = measure_norms(matrix, context)
    partial = norms_pass(matrix, context)
    assert context.weight is not None
    assert context.gradient is not None
    for tensor in (matrix, context.weight, context.gradient):
        tensor.fill_(torch.nan)
    (found,) = finish_norms([partial])
    assert found.values == expected.values
    # Finishing is no one-way street either.
    assert finish_norms([partial])[0].values == expected.values


def test_a_partial_is_small(rng: np.random.Generator) -> None:
    matrix, context = _case((700, 640), rng)
    partial = norms_pass(matrix, context)
    held = [getattr(partial, field.name) for field in fields(Partial)]
    storages = [x.untyped_storage().nbytes() for x in held if isinstance(x, torch.Tensor)]
    assert sum(storages) < 8 * (3 + 700 + 640) + 2 * 4 * 4096 + 1


def test_rows_only_leaves_out_what_costs_more(rng: np.random.Generator) -> None:
    matrix, context = _case((70, 64), rng)
    full = measure_norms(matrix, context)
    bare = measure_norms(matrix, replace(context, rows_only=True))
    known_of_both = {name for name, value in full.values.items() if value is not None}
    left_out = {name for name in known_of_both if bare.values[name] is None}
    for name in known_of_both - left_out:
        known = full.values[name]
        same = known if isinstance(known, str) else pytest.approx(known, rel=1e-6)
        assert bare.values[name] == same
    by_turns = {name for name, metric in METRICS.items() if metric.by_turns}
    assert left_out == by_turns | {"update_to_weight"}
    assert bare.sketch is None
    assert context.weight is not None
    known = replace(context, rows_only=True, weight=None, weight_norm=length(context.weight))
    assert measure_norms(matrix, known).values["update_to_weight"] == pytest.approx(
        full.values["update_to_weight"], rel=4e-7
    )


@pytest.mark.parametrize("other", ["same", "rows", "bfloat16"])
@pytest.mark.parametrize("layout", ["turned", "strided"])
def test_layout_changes_nothing(layout: str, other: str, rng: np.random.Generator) -> None:
    matrix, context = _case((70, 64), rng)
    assert context.weight is not None
    assert context.gradient is not None
    weight = context.weight.bfloat16().float()
    expected = measure_norms(matrix, replace(context, weight=weight))

    def lay(tensor: torch.Tensor) -> torch.Tensor:
        if layout == "turned":
            return tensor.mT.contiguous().mT
        return torch.cat([tensor, tensor], 1)[:, : tensor.shape[1]]

    companion = {"same": lay, "rows": torch.clone, "bfloat16": torch.Tensor.bfloat16}[other]
    found = measure_norms(
        lay(matrix),
        replace(context, weight=companion(weight), gradient=lay(context.gradient)),
    )
    for name, value in expected.values.items():
        same = value if value is None or isinstance(value, str) else pytest.approx(value, abs=1e-6)
        assert found.values[name] == same, name
    np.testing.assert_allclose(found.neuron_norms, expected.neuron_norms, rtol=4e-7)


def test_the_weight_after_gives_the_weights_metrics(rng: np.random.Generator) -> None:
    matrix, context = _case((70, 64), rng)
    assert context.weight is not None
    after = (1 - 1e-3) * context.weight - 0.1 * matrix
    expected = measure_norms(matrix, context).values
    found = measure_norms(
        matrix, replace(context, weight=None, weight_after=after, decay=1e-3)
    ).values
    for name in ("radial_fraction", "update_to_weight"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name


def test_the_weight_after_needs_its_divisor() -> None:
    matrix = torch.ones(2, 3)
    for wrong in (
        Context(weight_after=matrix),
        Context(weight=matrix, weight_after=matrix, lr=0.1),
    ):
        with pytest.raises(OptgeomError, match="weight_after stands in for weight, and needs lr"):
            norms_pass(matrix, wrong)
    with pytest.raises(OptgeomError, match=r"weight_after has shape \(3, 2\)"):
        norms_pass(matrix, Context(weight_after=matrix.mT, lr=0.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("stage", ["update", "momentum", "weight"])
def test_no_value_is_looked_at_on_a_device(dtype: torch.dtype, stage: str) -> None:
    # A meta tensor has no values: asking for one raises. Stands in for CUDA, where it would wait.
    matrix = torch.empty(70, 640, dtype=dtype, device="meta")
    sketch = torch.empty(4096, device="meta")
    for weight in ({"weight": matrix}, {"weight_after": matrix}):
        context = Context(stage=stage, lr=0.1, gradient=matrix, previous_sketch=sketch, **weight)
        partial = norms_pass(matrix, context)
        assert partial.numbers.shape == (3 + 70 + 640,)
        assert (partial.sketch is None) == (stage != "update")


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
@pytest.mark.parametrize("rows_only", [False, True])
def test_nothing_warns_at_the_ends_of_the_range(
    scale: float, rows_only: bool, rng: np.random.Generator
) -> None:
    dtype = torch.float64 if abs(np.log10(scale)) > 35 else torch.float32
    matrix = torch.from_numpy(rng.standard_normal((9, 700)) * scale).to(dtype)
    found = measure_norms(matrix, Context(weight=matrix, lr=0.1, rows_only=rows_only))
    assert found.values["status"] == "ok"  # a warning would be an error here
    plain = measure_norms((matrix.double() / scale), Context(rows_only=rows_only))
    for name in ("neuron_norm_cv", "neuron_norm_gini", "neuron_norm_p99_median"):
        assert found.values[name] == pytest.approx(plain.values[name], rel=1e-5)
