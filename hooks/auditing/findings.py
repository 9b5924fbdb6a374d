"""What a user should know before training: where measurements contradict settings, and faults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optgeom.hooks.auditing.measuring import Failure, Measured
from optgeom.hooks.auditing.ranks import Ranks
from optgeom.hooks.auditing.report import UNKNOWN, Answer, AuditFinding
from optgeom.hooks.auditing.second_moment import SecondMoment
from optgeom.hooks.auditing.subject import Subject

SETTINGS: Mapping[str, tuple[type, tuple[str, ...]]] = {
    "momentum": (float, ("momentum", "mu")),
    "nesterov": (bool, ("nesterov",)),
    "second_moment_decay": (float, ("muon_beta2", "beta2")),
    "ns_steps": (int, ("ns_steps", "ns_depth")),
    "neuron_axis": (str, ("neuron_axis",)),
}
"""Types and names under which groups keep what an answer measures; the first name counts."""

ORDER = {"severe": 0, "warning": 1, "note": 2}


def findings(
    subject: Subject, measured: Measured, ranks: Ranks | Failure, answers: Mapping[str, Answer]
) -> tuple[AuditFinding, ...]:
    """All findings, the most severe first."""
    found = [
        *_moves(subject, measured),
        *_orthogonalization(subject, measured, answers),
        *_structure(subject, measured, answers),
        *_scale(measured, answers),
        *_decay(measured),
        *_settings(subject, answers),
        *_odd(measured),
        *_ranks(ranks),
        *_habits(subject, answers),
    ]
    return tuple(sorted(found, key=lambda finding: ORDER[finding.severity]))


def _moves(subject: Subject, measured: Measured) -> Iterator[AuditFinding]:
    """Whether usual gradients move the weights at all, down the gradient, and to numbers."""
    if subject.upwards:
        is_asked = bool(subject.settings.get("maximize"))
        yield AuditFinding(
            "note" if is_asked else "severe",
            "its update goes up the gradient"
            + (", as maximize says" if is_asked else ": a sign is wrong"),
        )
    shapes = {"tall": measured.tall, "wide": measured.wide, "square": measured.square}
    if isinstance(measured.curve, Failure):
        shapes = {"usual": measured.curve}
    for shape, found in shapes.items():
        if isinstance(found, Failure):
            yield AuditFinding("severe", f"on gradients of {shape} matrices: {found.why}")
    if measured.company is True:
        yield AuditFinding(
            "warning", "the update of a matrix depends on the other matrices that it holds"
        )


def _orthogonalization(
    subject: Subject, measured: Measured, answers: Mapping[str, Answer]
) -> Iterator[AuditFinding]:
    if answers["orthogonalizes"].value is False and "muon" in subject.name.lower():
        yield AuditFinding(
            "severe",
            f"{subject.name} does not orthogonalize: {answers['orthogonalizes'].measured}. Look "
            "for a path that falls back to SGD or Adam",
        )
    if answers["orthogonalizes"].value == UNKNOWN and "muon" in subject.name.lower():
        yield AuditFinding(
            "warning",
            "what its update is made of is not known: " + answers["orthogonalizes"].measured,
        )
    if answers["orthogonalizes"].value is True and answers["neuron_axis"].value != UNKNOWN:
        unknown = [name for name in ("rescale", "shape_factor") if answers[name].value == UNKNOWN]
        if isinstance(measured.second, SecondMoment) and measured.second.decay is None:
            unknown.append("second_moment_decay")
        for name in unknown:
            text = f"its {name} is none that is known: {answers[name].measured}"
            yield AuditFinding("warning", text)


def _structure(
    subject: Subject, measured: Measured, answers: Mapping[str, Answer]
) -> Iterator[AuditFinding]:
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
    if "normuon" in subject.name.lower().replace("_", "") and model.before == "none":
        yield from _neurons(subject, answers)
    if measured.row == "signs" and model.after != "elementwise":
        yield AuditFinding(
            "warning",
            "a matrix of one row, such as a gate, is reduced to the signs of its entries: it is "
            "normalized by columns of one entry",
        )


def _neurons(subject: Subject, answers: Mapping[str, Answer]) -> Iterator[AuditFinding]:
    """Whether what is called NorMuon divides neurons, which are the rows of torch's weights."""
    if answers["orthogonalizes"].value is not True:
        return  # that is said already
    if answers["neuron_axis"].value == "columns":
        yield AuditFinding(
            "warning",
            "NorMuon's neurons are rows, the outputs of torch's (out, in) weights; this one "
            "normalizes columns: right only for weights that are kept transposed",
        )
    if answers["neuron_axis"].value == "none":
        yield AuditFinding(
            "severe",
            f"{subject.name} does not normalize neurons: {answers['neuron_axis'].measured}",
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
    if decay.form == "unknown":
        yield AuditFinding("warning", f"weight_decay={decay.setting:g} is set: {decay.words}")
    elif decay.coefficient < 0:
        yield AuditFinding("severe", f"the weights grow: {decay.words}")
    elif decay.form == "none":
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
    for name, (key, said) in _said(subject.settings).items():
        answer = answers[name]
        if answer.value == UNKNOWN or answer.meets(said):
            continue
        if answer.value is None:
            if name == "second_moment_decay" and answers["orthogonalizes"].value is True:
                yield AuditFinding("warning", f"its settings say {key}={said!r}: {answer.measured}")
            continue
        if name == "momentum" and answer.meets(1.0 - said):
            text = (
                f"{key}={said:g} is the weight of the newest gradient: momentum is {answer.value}"
            )
            yield AuditFinding("note", text)
            continue
        yield AuditFinding(
            "warning",
            f"its settings say {key}={said!r}, measured is {answer.value!r}: {answer.measured}",
        )


def _said(settings: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """The name and value of what a group says, by the answers' names.

    Groups of a Muon that runs AdamW inside hold the betas of that beside their own momentum.
    """
    found: dict[str, tuple[str, Any]] = {}
    has_own = "momentum" in settings or "mu" in settings
    names = {name: keys for name, (_, keys) in SETTINGS.items()}
    if has_own and ("beta1" in settings or "betas" in settings):
        names["second_moment_decay"] = ("muon_beta2",)
    if not has_own:
        names["momentum"] = ("beta1",)
        betas = settings.get("betas")
        if isinstance(betas, list) and len(betas) == 2:
            found = {
                "momentum": ("betas[0]", betas[0]),
                "second_moment_decay": ("betas[1]", betas[1]),
            }
    for name, keys in names.items():
        for key in keys:
            if name not in found and _is_a(settings.get(key), SETTINGS[name][0]):
                found[name] = (key, settings[key])
    return found


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


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
