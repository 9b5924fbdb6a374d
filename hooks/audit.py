"""Audit an optimizer before you train with it: known gradients in, what it really does out."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]

from optgeom.hooks.auditing.answers import answers
from optgeom.hooks.auditing.findings import findings
from optgeom.hooks.auditing.measuring import Failure, Measured, measure
from optgeom.hooks.auditing.ranks import Ranks, measure_ranks
from optgeom.hooks.auditing.report import AuditReport
from optgeom.hooks.auditing.subject import AuditError, Factory, Subject

SEED = 0
_LOCK = threading.Lock()  # what is put back at the end belongs to the whole process


def audit(factory: Factory, *, ranks: bool = True) -> AuditReport:
    """Find out what an optimizer does, as a black box.

    It is made some eighty times over small matrices, fed gradients whose singular values, rows and
    sequences are known, and its updates are compared with what each hypothesis predicts. Nothing
    outside is changed: not the random state, and what it forks ends with the call. It takes a few
    seconds. docs/audit.md says how each answer is measured, and how exactly.

    Args:
        factory: takes a list of 2-D parameters, returns an optimizer with the settings that are to
            be audited: `lambda params: torch.optim.Muon(params, lr=0.02)`.
        ranks: whether to run two gloo ranks too, forked from this process.

    Returns:
        Answers by name, and findings; `report.expect(neuron_axis="rows")` asserts.

    Raises:
        AuditError: the optimizer cannot be made, its lr is zero, or none of its steps runs.

    Examples:
        >>> report = audit(lambda params: torch.optim.SGD(params, lr=0.1), ranks=False)
        >>> report["orthogonalizes"], report["momentum"]
        (False, 0.0)
    """
    with _LOCK, _undisturbed():
        subject, measured = _alone(factory)
        found = measure_ranks(subject) if ranks else Failure("not asked for")
    return _report(subject, measured, found)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave as it was what a whole process shares: random states, warnings, torch's defaults."""
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002 -- the one that others draw from
    try:
        with (
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
            torch.device("cpu"),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            warnings.simplefilter("ignore")
            random.seed(SEED)
            np.random.seed(SEED)  # noqa: NPY002
            torch.manual_seed(SEED)
            yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002


def _report(subject: Subject, measured: Measured, ranks: Ranks | Failure) -> AuditReport:
    curve, given = measured.curve, answers(measured, ranks)
    shown: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    if not isinstance(curve, Failure) and measured.model is not None and measured.model.curve:
        shown = (tuple(curve.inputs.tolist()), tuple(curve.outputs.tolist()))
    odd = {} if isinstance(measured.odd, Failure) else measured.odd
    return AuditReport(
        optimizer=subject.name,
        settings=MappingProxyType(subject.settings),
        answers=MappingProxyType(given),
        gradients=MappingProxyType({name: one.words for name, one in odd.items()}),
        ranks=MappingProxyType({} if isinstance(ranks, Failure) else dict(ranks.cases)),
        curve=shown,
        findings=findings(subject, measured, ranks, given),
    )


def _alone(factory: Factory) -> tuple[Subject, Measured]:
    """Measure in this process, in a group of one where the optimizer asks for a group."""
    try:
        subject = Subject(factory)
    except AuditError as error:
        if "process group" not in str(error) or dist.is_initialized():
            raise
        with _group_of_one():
            subject = Subject(factory)
            return subject, measure(subject)
    return subject, measure(subject)


@contextmanager
def _group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
