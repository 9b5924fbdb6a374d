"""One rank that trains a few steps and counts what it sends: ``counted_ranks.py FOLDER``."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from optgeom.trainer import load_config, train
from optgeom.trainer.config import TrainConfig

STEPS = 2
"""The first one is captured, the second is not."""


def config_of(folder: Path) -> TrainConfig:
    return load_config(
        overrides={
            "model.width": 16,
            "model.heads": 2,
            "model.blocks": 2,
            "model.mlp_width": 33,
            "data.corpus": str(folder / "text.txt"),
            "data.sequence": 16,
            "data.batch": 4,
            "optimizer.settings.ns_dtype": "float32",
            "schedule.steps": STEPS,
            "schedule.warmup": 1,
            "capture.every": 50,
            "capture.updates_every": 0,
            "capture.last_step": False,
            "capture.stages": ("gradient", "update"),
            "eval_batches": 1,
            "device": "cpu",
        }
    )


def counting(found: list[Counter[str]]) -> None:
    """Add up what leaves this rank, by purpose and step; a step ends with the mean of its loss."""
    own: list[Any] = []
    real = {
        name: getattr(dist, name)
        for name in (
            "all_gather_single",
            "reduce_scatter_single",
            "all_to_all_single",
            "all_reduce",
            "new_group",
        )
    }
    world, rank = dist.get_world_size, dist.get_rank

    def new_group(*args: Any, **kwargs: Any) -> Any:
        own.append(real["new_group"](*args, **kwargs))
        return own[-1]

    def gather(output: Tensor, given: Tensor, **kwargs: Any) -> Any:
        found[-1]["gathers"] += given.nbytes * (world() - 1)
        return real["all_gather_single"](output, given, **kwargs)

    def scatter(**kwargs: Any) -> Any:
        found[-1]["scatters"] += kwargs["output"].nbytes * (world() - 1)
        return real["reduce_scatter_single"](**kwargs)

    def exchange(got: Tensor, sent: Tensor, into: Any, outof: Any, **kwargs: Any) -> Any:
        going = sent.element_size() * (sum(outof) - outof[rank()])
        purpose = "exchange"
        if any(kwargs["group"] is one for one in own):
            purpose = "norms" if sent.element_size() == 8 else "spectra"
        found[-1][purpose] += going
        return real["all_to_all_single"](got, sent, into, outof, **kwargs)

    def reduce(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        group = kwargs.get("group")
        result = real["all_reduce"](tensor, *args, **kwargs)
        if group is None:
            if tensor.numel() == 2:  # loss, and whether anybody stops
                found.append(Counter())
        else:
            purpose = "norms" if any(group is one for one in own) else "exchange"
            found[-1][purpose] += 2 * tensor.nbytes * (world() - 1) // world()
        return result

    for name, function in (
        ("new_group", new_group),
        ("all_gather_single", gather),
        ("reduce_scatter_single", scatter),
        ("all_to_all_single", exchange),
        ("all_reduce", reduce),
    ):
        setattr(dist, name, function)


def main(folder: Path) -> None:
    found: list[Counter[str]] = [Counter()]
    counting(found)
    train(config_of(folder), out=folder / "trace")
    path = folder / f"rank{os.environ['RANK']}.json"
    path.write_text(json.dumps(found[:STEPS]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
