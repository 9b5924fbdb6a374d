"""The stage `applied`: what the stored weights really moved by, rounding included."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from optgeom.optim import NorMuon

MAKERS = {
    "for-loop": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1, foreach=False),
    "foreach": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1, foreach=True),
    "fused": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1, fused=True),
    "handed over": partial(NorMuon, lr=1e-3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MAKERS)
def test_it_is_the_difference_of_the_stored_weights(
    name: str, dtype: torch.dtype, bag: Any, train: Any, watched: Any, opened: Any
) -> None:
    model = bag(dtype)
    optimizer = MAKERS[name](model.parameters())
    weights = [{n: p.detach().float().clone() for n, p in model.named_parameters()}]
    with watched(model, optimizer, stages=("update", "applied")):
        for step in range(4):
            train(model, optimizer, [step])
            weights.append({n: p.detach().float().clone() for n, p in model.named_parameters()})
    trace = opened()
    rows = trace.metrics(stages=["update"]).to_pylist()
    assert len(rows) == 4 * 3
    assert {row["status"] for row in rows} == {"ok"}
    for row in rows:
        step, layer = row["step"], row["layer"]
        moved = (weights[step + 1][layer] - weights[step][layer]).numpy()
        np.testing.assert_array_equal(trace.matrix(step, layer, stage="applied"), moved)
        if dtype == torch.bfloat16 and row["lost_update_fraction"] > 0.1:
            update = trace.matrix(step, layer) * row["lr"]
            assert np.count_nonzero(moved) < np.count_nonzero(update)  # what was meant is more
