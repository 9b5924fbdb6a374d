"""Keeping our background thread from slowing the training threads down.

A thread that has once run a parallel region keeps an OpenMP team of its own. From then on the
runtime counts more threads than cores, and every other team stops spinning at its barriers: on two
cores an idle team of ours made small training steps 2.0 to 2.4 times slower until it ended.
torch.set_num_threads would prevent that, but it also changes the threads that are made later.
"""

from __future__ import annotations

import ctypes
import logging

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
    return True
