"""Keeping our background thread from slowing the training threads down.

A thread that has once run a parallel region keeps an OpenMP team of its own. From then on the
runtime counts more threads than cores, and every other team stops spinning at its barriers: on two
cores an idle team of ours made small training steps 2.0 to 2.4 times slower until it ended.
torch.set_num_threads would prevent that, but it also changes the threads that are made later.
Where the user has called it, torch has told MKL a number for all threads, which beats OpenMP's:
MKL is then told one thread for the calling thread alone.
"""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path

import torch

logger = logging.getLogger(__name__)


def use_one_thread() -> bool:
    """Make parallel regions of the calling thread run on it alone; no other thread is changed.

    Returns:
        Whether an OpenMP runtime was found; without one there is no team to prevent.
    """
    torch.get_num_threads()  # torch sets a new thread's number at its first use: let it be done
    try:
        set_num_threads = ctypes.CDLL(None).omp_set_num_threads
    except (AttributeError, OSError, TypeError):
        logger.debug("no OpenMP runtime in this process: the background thread stays as it is")
        return False
    set_num_threads(1)
    _use_one_mkl_thread()
    return True


def _use_one_mkl_thread() -> None:
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    for name in (None, str(library)):
        try:
            ctypes.CDLL(name).MKL_Set_Num_Threads_Local(1)
        except (AttributeError, OSError, TypeError):
            continue
        return
    logger.debug("no MKL in this process")
