"""Every class of pytorch-optimizer: the record is what a float64 twin applied."""

from __future__ import annotations

import pytest
import torch

from tests.optimizers.case import DECAY, LR, Case
from tests.optimizers.check import check, check_published
from tests.optimizers.examine import equal_bits
from tests.optimizers.pytorch_optimizer_cases import CASES, CLASSES, ELSEWHERE
from tests.optimizers.pytorch_optimizer_decays import WITHOUT_EFFECT
from tests.optimizers.run import run


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_the_record_is_what_the_optimizer_applied(case: Case) -> None:
    check(case)


@pytest.mark.slow
def test_the_published_table_is_what_is_found() -> None:
    """In this file, where each case has been examined."""
    check_published(CASES)


def test_every_class_is_there() -> None:
    assert {case.optimizer for case in CASES} == set(CLASSES) - set(ELSEWHERE)


def test_at_least_ninety_classes_are_read_from_their_operations() -> None:
    others = {case.optimizer for case in CASES if case.source != "dispatch"}
    assert len({case.optimizer for case in CASES} - others) >= 90


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_coupled_decay_that_is_recorded_as_none_has_no_effect(name: str) -> None:
    def weights(decay: float) -> list[list[torch.Tensor]]:
        def build(model: torch.nn.Module) -> torch.optim.Optimizer:
            settings = {"lr": LR, "weight_decay": decay, "weight_decouple": False}
            return CLASSES[name](model.parameters(), **settings)

        return run(Case("pytorch-optimizer", name, "", build, steps=7), torch.float64).weights

    without = weights(0.0)
    assert not equal_bits(without[0], without[-1])
    assert equal_bits(without, weights(DECAY))
