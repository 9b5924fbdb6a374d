from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch

from optgeom.geometry import METRICS, Context, columns, measure_norms, measure_spectrum
from optgeom.geometry.measure import measure
from optgeom.traces.errors import OptgeomError

EVERYTHING = [*METRICS, "status", "spectrum_status", "spectrum_method"]


def test_rows_hold_every_column(rng: np.random.Generator) -> None:
    matrix = torch.from_numpy(rng.standard_normal((12, 7))).float()
    norms, spectrum = measure_norms(matrix), measure_spectrum(matrix)
    assert list(norms.values) == [*columns("metrics"), "status", "operand_dtype"]
    assert list(spectrum.values) == [*columns("spectra"), "spectrum_status", "spectrum_method"]
    assert norms.neuron_norms.dtype == np.float32
    assert spectrum.singular_values is not None
    assert spectrum.singular_values.dtype == np.float32
    exact = scipy.linalg.svdvals(matrix.double().numpy())
    np.testing.assert_allclose(spectrum.singular_values, exact, rtol=1e-6)
    np.testing.assert_allclose(
        norms.neuron_norms, np.linalg.norm(matrix.double().numpy(), axis=1), rtol=1e-6
    )
    for value in (*norms.values.values(), *spectrum.values.values()):
        assert value is None or type(value) in (float, int, str)


def test_what_the_context_knows_is_handed_through(rng: np.random.Generator) -> None:
    a, before = torch.from_numpy(rng.standard_normal((2, 24, 10)))
    facts = {
        "steps_since_previous": 50,
        "second_moment_steps": 7,
        "lost_update_fraction": 0.5,
        "lost_decay_fraction": 1.0,
    }
    found = measure(a, previous_sketch=measure_norms(before).sketch, **facts)
    assert {name: found[name] for name in facts} == facts
    assert list(found) == EVERYTHING


STAGE_ONLY = {
    "update": {
        "update_rms",
        "update_to_weight",
        "radial_fraction",
        "cosine_previous",
        "steps_since_previous",
        "lost_update_fraction",
        "lost_decay_fraction",
        "second_moment_steps",
        "cosine_gradient",
        "descent_efficiency",
    },
    "ns_input": {"ns_floor_fraction", "leverage_cv", "leverage_rank", "cosine_gradient"},
    "orthogonalized": {"sigma_min", "sigma_max", "polar_error", "ns_row_error", "cosine_gradient"},
    "momentum": {"cosine_gradient"},
    "gradient": set(),
    "weight": set(),
}


@pytest.mark.parametrize("stage", STAGE_ONLY)
def test_metrics_stand_only_on_their_stages(stage: str, rng: np.random.Generator) -> None:
    a, w, g = (torch.from_numpy(x) for x in rng.standard_normal((3, 20, 8)))
    found = measure(
        a,
        stage=stage,
        weight=w,
        gradient=g,
        lr=0.1,
        previous_sketch=torch.ones(4096),
        steps_since_previous=1,
        second_moment_steps=1,
        lost_update_fraction=0.0,
        lost_decay_fraction=0.0,
        polynomial=((2.0, -1.5, 0.5),) * 12,
        polar_row_norms=np.ones(20),
    )
    bound = set().union(*STAGE_ONLY.values())
    present = {name for name in bound if found[name] is not None}
    assert present == STAGE_ONLY[stage]
    assert all(found[name] is not None for name in set(METRICS) - bound)
    for name in present:
        assert stage in METRICS[name].stages


def test_descent_efficiency_takes_the_gradients_nuclear_norm_and_no_second_spectrum(
    rng: np.random.Generator,
) -> None:
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        update, gradient = (torch.from_numpy(x).to(dtype) for x in rng.standard_normal((2, 30, 20)))
        assert (
            measure_spectrum(update, Context(gradient=gradient)).values["descent_efficiency"]
            is None
        )
        nuclear = measure_spectrum(gradient, Context(stage="gradient")).values["nuclear_norm"]
        assert isinstance(nuclear, float)
        facts = Context(gradient=gradient, gradient_nuclear_norm=nuclear)
        found = measure_spectrum(update, facts).values["descent_efficiency"]
        assert found == pytest.approx(
            measure(update, gradient=gradient)["descent_efficiency"], abs=bound
        )
        u, g = update.double().numpy(), gradient.double().numpy()
        exact = (u * g).sum() / scipy.linalg.svdvals(g).sum() / scipy.linalg.norm(u, 2)
        assert found == pytest.approx(exact, abs=bound)


def test_row_error_takes_the_polar_rows_of_ns_input(rng: np.random.Generator) -> None:
    entered = torch.from_numpy(rng.standard_normal((40, 12)))
    left, _, right = scipy.linalg.svd(entered.numpy(), full_matrices=False)
    polar = left @ right
    bent = torch.from_numpy(polar * (1.0 + 0.2 * rng.standard_normal((40, 1))))
    before = measure_spectrum(entered, Context(stage="ns_input"))
    assert before.polar_row_norms is not None
    np.testing.assert_allclose(before.polar_row_norms, np.linalg.norm(polar, axis=1), atol=1e-12)
    facts = Context(stage="orthogonalized", polar_row_norms=before.polar_row_norms)
    rho, exact = np.linalg.norm(bent.numpy(), axis=1), np.linalg.norm(polar, axis=1)
    c = rho @ exact / (exact @ exact)
    expected = np.linalg.norm(rho - c * exact) / np.linalg.norm(rho)
    found = measure_spectrum(bent, facts)
    assert found.values["ns_row_error"] == pytest.approx(expected)
    assert found.values["leverage_cv"] is None
    alone = measure_spectrum(bent, Context(stage="orthogonalized")).values
    assert alone["ns_row_error"] is None
    assert alone["leverage_rank"] == 12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("fill", "status"),
    [(0.0, "zero"), (np.nan, "non_finite"), (np.inf, "non_finite"), (-np.inf, "non_finite")],
)
def test_what_cannot_be_measured_is_null_and_says_why(
    dtype: torch.dtype, fill: float, status: str
) -> None:
    matrix = torch.zeros(6, 4, dtype=dtype)
    matrix[2, 3] = fill
    found = measure(matrix, weight=torch.ones(6, 4), gradient=torch.ones(6, 4), lr=0.1)
    assert found["status"] == found["spectrum_status"] == status
    assert [name for name in METRICS if found[name] is not None] == []
    row = measure_norms(matrix)
    assert row.sketch is None
    assert row.neuron_norms.shape == (6,)
    assert np.isnan(row.neuron_norms).any() == (status == "non_finite")
    assert measure_spectrum(matrix).singular_values is None


def test_zero_weight_and_zero_gradient_leave_ratios_null() -> None:
    found = measure(torch.eye(3), weight=torch.zeros(3, 3), gradient=torch.zeros(3, 3), lr=0.1)
    for name in ("update_to_weight", "radial_fraction", "cosine_gradient", "descent_efficiency"):
        assert found[name] is None
    assert found["status"] == "ok"


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_one_row_or_one_column(shape: tuple[int, int], rng: np.random.Generator) -> None:
    found = measure(rng.standard_normal(shape))
    assert found["svd_entropy"] is None
    assert found["condition_number"] == found["stable_rank"] == found["effective_rank"] == 1.0
    assert found["spectral_flatness_cv"] == 0.0
    assert found["status"] == found["spectrum_status"] == "ok"


def test_at_the_floor_the_condition_number_is_a_bound(
    with_spectrum: Callable[..., np.ndarray],
) -> None:
    matrix = with_spectrum((30, 20), np.linspace(4.0, 2.0, 8))
    wide = measure(matrix)
    assert wide["spectrum_status"] == "at_floor"
    assert wide["resolved_rank"] == 8
    assert wide["condition_number"] == pytest.approx(4.0 / wide["noise_floor"])
    assert wide["condition_number_resolved"] == pytest.approx(2.0)
    # What float32 could hold lies as low as what the Gram matrix resolves: no SVD is made.
    narrow = measure(matrix.astype(np.float32))
    assert (narrow["spectrum_method"], wide["spectrum_method"]) == ("gram", "svd")
    assert narrow["condition_number"] == pytest.approx(1 / 1.5e-7)


def test_the_floor_is_the_largest_of_its_three_sources(
    with_spectrum: Callable[..., np.ndarray],
) -> None:
    matrix = torch.from_numpy(with_spectrum((30, 20), np.geomspace(8.0, 0.02, 20))).float()
    assert measure(matrix)["noise_floor"] == pytest.approx(8 * 1.5e-7, rel=1e-5)
    operand = measure(matrix, operand_dtype=torch.bfloat16)
    assert operand["noise_floor"] == pytest.approx(8 * 2.0**-7, rel=1e-5)
    assert operand["spectrum_status"] == "at_floor"
    reading = measure(matrix, noise_floor=0.5)
    assert reading["noise_floor"] == 0.5
    assert reading["condition_number"] == pytest.approx(16.0, rel=1e-5)
    assert reading["resolved_rank"] == int((np.geomspace(8.0, 0.02, 20) > 0.5).sum())


@pytest.mark.parametrize(
    ("source", "share", "status"),
    [
        ("difference", 0.26, "lost"),
        ("difference", 0.25, "ok"),
        ("difference", None, "ok"),
        ("dispatch", 0.9, "ok"),
    ],
)
def test_a_difference_that_lost_its_entries_has_no_spectrum(
    source: str, share: float | None, status: str
) -> None:
    found = measure(torch.eye(4) + 0.1, source=source, lost_update_fraction=share)
    assert found["status"] == found["spectrum_status"] == status
    assert (found["condition_number"] is None) == (status == "lost")
    assert found["neuron_norm_cv"] is not None


def test_the_captures_status_is_kept() -> None:
    assert measure(torch.eye(3), status="unverified")["status"] == "unverified"
    assert measure(torch.zeros(3, 3), status="lr_zero")["status"] == "lr_zero"
    assert measure(torch.full((3, 3), torch.nan), status="unverified")["status"] == "non_finite"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_inputs_and_torchs_state_are_left_alone(dtype: torch.dtype) -> None:
    matrix = torch.randn(30, 12).to(dtype).requires_grad_()
    weight, gradient = torch.randn(2, 30, 12)
    copies = [tensor.detach().clone() for tensor in (matrix, weight, gradient)]
    torch.manual_seed(4)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    facts = Context(weight=weight, gradient=gradient, lr=0.1)
    norms, spectrum = measure_norms(matrix, facts), measure_spectrum(matrix, facts)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    for tensor, copy in zip((matrix, weight, gradient), copies, strict=True):
        assert torch.equal(tensor, copy)
    assert norms.sketch is not None
    assert not norms.sketch.requires_grad
    again = measure_spectrum(matrix.detach(), facts)
    assert again.values == spectrum.values


def test_autocast_and_default_dtype_do_not_reach_in(rng: np.random.Generator) -> None:
    matrix = torch.from_numpy(rng.standard_normal((200, 60))).float()
    facts = Context(weight=matrix + 1, gradient=matrix - 1, lr=0.1)
    plain = measure_norms(matrix, facts)
    facts = Context(weight=matrix + 1, gradient=matrix - 1, lr=0.1, previous_sketch=plain.sketch)
    expected = measure_norms(matrix, facts).values, measure_spectrum(matrix, facts).values
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = measure_norms(matrix, facts).values, measure_spectrum(matrix, facts).values
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == expected
    assert found[0]["cosine_previous"] == pytest.approx(1.0)


def test_numpy_and_torch_agree_whatever_the_layout(rng: np.random.Generator) -> None:
    array = rng.standard_normal((14, 9))
    frozen = array.copy()
    frozen.flags.writeable = False
    expected = measure(torch.from_numpy(array))
    for other in (frozen, np.asfortranarray(array), array[::-1].copy()[::-1], array.tolist()):
        found = measure(other)
        for name, value in expected.items():
            close = value if isinstance(value, str | None) else pytest.approx(value, rel=1e-12)
            assert found[name] == close, name
    assert measure(np.eye(3, dtype=int))["condition_number"] == 1.0


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros(3), r"two dimensions.*\(3,\)"),
        (np.zeros((0, 3)), r"\(0, 3\)"),
        (torch.zeros(2, 2, dtype=torch.complex64), "complex64"),
        (np.zeros((2, 2), dtype=complex), "real numbers, not complex128"),
        (np.array([["a"]]), "real numbers"),
    ],
)
def test_what_is_no_matrix_is_named(matrix: object, message: str) -> None:
    with pytest.raises(OptgeomError, match=message):
        measure(matrix)


def test_wrong_companions_are_named() -> None:
    with pytest.raises(OptgeomError, match=r"weight has shape \(2, 3\), the matrix \(3, 2\)"):
        measure(torch.ones(3, 2), weight=torch.ones(2, 3))
    with pytest.raises(OptgeomError, match="not learning_rate"):
        measure(torch.ones(3, 2), learning_rate=0.1)
