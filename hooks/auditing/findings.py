"""What a user should know before training: where measurements contradict settings, and faults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optgeom.hooks.auditing.measuring import Failure, Measured
from optgeom.hooks.auditing.ranks import Ranks
from optgeom.hooks.auditing.report import UNKNOWN, Answer, AuditFinding
from optgeom.hooks.auditing.subject import Subject

SETTINGS: Mapping[str, tuple[str, ...]] = {
    "momentum": ("momentum", "mu", "beta1"),
    "nesterov": ("nesterov",),
    "second_moment_decay": ("beta2",),
    "ns_steps": ("ns_steps", "ns_depth"),
    "neuron_axis": ("neuron_axis",),
}
"""Names under which groups keep what an answer measures."""

ORDER = {"severe": 0, "warning": 1, "note": 2}


def findings(
    subject: Subject, measured: Measured, ranks: Ranks | Failure, answers: Mapping[str, Answer]
) -> tuple[AuditFinding, ...]:
    """All findings, the most severe first."""
    found = [
        *_orthogonalization(subject, answers),
        *_structure(measured, answers),
        *_scale(measured, answers),
        *_decay(measured),
        *_settings(subject, answers),
        *_odd(measured),
        *_ranks(ranks),
        *_habits(subject, answers),
    ]
    return tuple(sorted(found, key=lambda finding: ORDER[finding.severity]))


def _orthogonalization(subject: Subject, answers: Mapping[str, Answer]) -> Iterator[AuditFinding]:
    if "muon" in subject.name.lower() and answers["orthogonalizes"].value is False:
        yield AuditFinding(
            "severe",
            f"{subject.name} does not orthogonalize: its update is "
            f"{answers['orthogonalizes'].measured}. Look for a path that falls back to SGD or Adam",
        )


def _structure(measured: Measured, answers: Mapping[str, Answer]) -> Iterator[AuditFinding]:
    model = measured.model
    if model is None or model.curve is None:
        return
    if model.before != "none":
        yield AuditFinding(
            "warning",
            f"it normalizes before it orthogonalizes: {model.words}. NorMuon divides after",
        )
    elif answers["neuron_axis"].value == UNKNOWN:
        yield AuditFinding(
            "warning", f"no neuron axis explains it: {answers['neuron_axis'].measured}"
        )
    if answers["second_moment_decay"].value == 0.0:
        yield AuditFinding(
            "warning",
            "its normalization keeps no second moment: every update alone is made even, where "
            "NorMuon divides by a running mean of squares",
        )
    if measured.row == "signs" and model.after != "elementwise":
        yield AuditFinding(
            "warning",
            "a matrix of one row, such as a gate, is reduced to the signs of its entries: it is "
            "normalized by columns of one entry",
        )


def _scale(measured: Measured, answers: Mapping[str, Answer]) -> Iterator[AuditFinding]:
    scale, model = measured.scale, measured.model
    if isinstance(scale, Failure) or model is None:
        return
    if scale.wrong:
        yield AuditFinding("severe", f"the factor of the shape is {scale.wrong}")
    normalizes = model.after in ("row", "column") and model.curve is not None
    if normalizes and scale.rescale == "none":
        yield AuditFinding(
            "severe",
            "the update is not rescaled after the neurons are divided by their running size: "
            f"{answers['rescale'].measured}",
        )


def _decay(measured: Measured) -> Iterator[AuditFinding]:
    decay = measured.decay
    if isinstance(decay, Failure) or not decay.setting:
        return
    if decay.form == "none":
        yield AuditFinding(
            "severe", f"weight_decay={decay.setting:g} is set, and the weights do not decay"
        )
    elif decay.form in ("decoupled", "cautious") and not decay.by:
        yield AuditFinding(
            "warning",
            f"weight_decay={decay.setting:g} is set, and {decay.words}: neither lr * weight_decay "
            "nor weight_decay",
        )


def _settings(subject: Subject, answers: Mapping[str, Answer]) -> Iterator[AuditFinding]:
    for name, said in _said(subject.settings).items():
        answer = answers[name]
        if answer.value in (UNKNOWN, None) or answer.meets(said):
            continue
        yield AuditFinding(
            "warning",
            f"its settings say {name}={said!r}, measured is {answer.value!r}: {answer.measured}",
        )


def _said(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a group says, by the answers' names."""
    found = {
        name: settings[key]
        for name, keys in SETTINGS.items()
        for key in keys
        if isinstance(settings.get(key), bool | int | float | str)
    }
    betas = settings.get("betas")
    if isinstance(betas, list) and len(betas) == 2:
        found |= {"momentum": betas[0], "second_moment_decay": betas[1]}
    return found


def _odd(measured: Measured) -> Iterator[AuditFinding]:
    if isinstance(measured.odd, Failure):
        return
    for name, odd in measured.odd.items():
        if odd.is_broken:
            severity = "severe" if name in ("zero", "missing", "non_contiguous") else "warning"
            gradients = {
                "bfloat16": "bfloat16 weights and gradients",
                "non_contiguous": "a gradient that is not contiguous",
            }
            which = gradients.get(name, f"a {name} gradient")
            yield AuditFinding(severity, f"{which}: {odd.words}")  # type: ignore[arg-type]


def _ranks(ranks: Ranks | Failure) -> Iterator[AuditFinding]:
    if isinstance(ranks, Failure):
        return
    differing = {name: said for name, said in ranks.cases.items() if "away from" in said}
    if differing:
        cases = "; ".join(f"{name}: {said}" for name, said in differing.items())
        yield AuditFinding("severe", f"two ranks make another update than one: {cases}")
    for name, said in ranks.cases.items():
        if said.startswith("hangs") or said.startswith("a rank died"):
            yield AuditFinding("severe", f"two ranks, {name}: {said}")
        elif said.startswith("raises"):
            yield AuditFinding("note", f"two ranks, {name}: {said.partition('. ')[0]}")


def _habits(subject: Subject, answers: Mapping[str, Answer]) -> Iterator[AuditFinding]:
    if answers["writes_gradient"].value is True:
        yield AuditFinding(
            "note", "a step overwrites p.grad: read gradients, and clip them, before it"
        )
    if not subject.resets:
        yield AuditFinding(
            "note",
            "its updates depend on the weights, or it keeps weights of its own: what is measured "
            "over several steps is less exact",
        )
    if subject.way != "dense":
        yield AuditFinding("note", f"it was fed through {_ways[subject.way]}")
    if not subject.is_single:
        yield AuditFinding("note", "it does not take float32, bfloat16 weights were used")


_ways = {"closure": "step(closure), as it asks for", "sparse": "sparse gradients, as it asks for"}
