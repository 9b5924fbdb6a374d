"""Several ranks on this machine without torchrun's own command line."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import click

from optgeom.trainer.errors import ConfigError

REFUSED, STOPPED = 2, 130
"""Exit codes after which everything has been said."""


def launch(ranks: int, arguments: Sequence[str]) -> int:
    """Run this program on so many ranks, and end them all when one of them dies.

    Args:
        ranks: How many.
        arguments: Of ``optgeom``, for each of them.

    Returns:
        The exit code: 0, or that of the first rank that failed; 1 where it was killed.

    Raises:
        ConfigError: torchrun has started this process already.
    """
    if "WORLD_SIZE" in os.environ:
        raise ConfigError(
            f"--nproc starts the ranks itself, got WORLD_SIZE {os.environ['WORLD_SIZE']}: "
            "leave out --nproc under torchrun"
        )
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say it below
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
    try:
        main(["--standalone", "--nproc-per-node", str(ranks), "-m", "optgeom", *arguments])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode not in (REFUSED, STOPPED):
            how = f"was killed by signal {-failure.exitcode}" if failure.exitcode < 0 else "failed"
            click.echo(f"optgeom: rank {rank} {how}, and the others were stopped", err=True)
        return max(1, failure.exitcode)
    except SignalException:
        return STOPPED
    return 0
