from __future__ import annotations

import pytest

from optgeom.trainer import load_config
from optgeom.trainer.config import TrainConfig
from optgeom.trainer.sizes import Sizes


@pytest.mark.parametrize(
    ("preset", "weights", "hidden"),
    [
        ("demo", 853_376, 786_432),
        ("124m", 162.2e6, 84.9e6),
        ("350m", 405.1e6, 302.0e6),
        ("1.1b", 1.104e9, 0.973e9),  # the paper's 1.1 B
        ("5.4b", 5.445e9, 5.215e9),  # the paper's 5.4 B
    ],
)
def test_presets_have_the_weights_that_they_are_named_after(preset, weights, hidden) -> None:
    sizes = Sizes.of(load_config(preset))
    assert sizes.weights == pytest.approx(weights, rel=1e-3)
    assert sizes.hidden == pytest.approx(hidden, rel=1e-3)


@pytest.mark.parametrize("name", ["adamw", "muon", "normuon"])
def test_state_is_what_the_optimizer_keeps(name: str, tiny, kept_numbers) -> None:
    config: TrainConfig = tiny(optimizer__name=name)
    assert Sizes.of(config).state(name) == kept_numbers(config)


def test_a_rank_holds_its_share_and_two_blocks() -> None:
    config = load_config("1.1b")
    sizes = Sizes.of(config)
    # 4 bytes of each: weights, gradients, momentum of hidden matrices, two moments of the rest
    share = 4 * (2 * sizes.weights + sizes.hidden + sizes.neurons + 2 * 131_139_584) / 8
    expected = share + 2 * 2 * sizes.block
    assert sizes.bytes_per_rank(config, 8) == pytest.approx(expected, rel=1e-3)
    assert sizes.bytes_per_rank(config, 1) > 6 * sizes.bytes_per_rank(config, 8)
