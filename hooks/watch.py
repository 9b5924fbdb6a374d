"""`watch`: where a user attaches. Wrong use raises here, before training, and nowhere later."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from optgeom.geometry.threads import use_one_thread
from optgeom.hooks.beside import Beside
from optgeom.hooks.clock import CADENCES, Clock, Clocks, cadences
from optgeom.hooks.disabled import VARIABLE, Disabled, is_disabled
from optgeom.hooks.disk import Room, room_of
from optgeom.hooks.ending import announce, shown
from optgeom.hooks.errors import WatchError
from optgeom.hooks.findings import Findings, OnFinding
from optgeom.hooks.frameworks.wrapping import rewired, unwrapped
from optgeom.hooks.layers import LayerFilter, select
from optgeom.hooks.manifest import names_of, run_info
from optgeom.hooks.observe import STAGES
from optgeom.hooks.recorder import Recorder
from optgeom.hooks.sharding import Ranks
from optgeom.hooks.sinks.following import Following
from optgeom.hooks.sinks.sink import Sink, checked
from optgeom.hooks.targets import targets_of
from optgeom.hooks.views import View
from optgeom.hooks.wanted import check_wanted
from optgeom.traces.files.address import is_uri, masked, name_of
from optgeom.traces.info import RunInfo
from optgeom.traces.writer import TraceWriter
from optgeom.traces.writing.opening import check_run


def watch(
    model: nn.Module,
    optimizer: Any,
    out: str | os.PathLike[str],
    *,
    every: int = 50,
    spectra_every: int | None = None,
    updates_every: int | None = None,
    burst: int = 1,
    layers: LayerFilter = None,
    views: Mapping[str, View] | None = None,
    stages: Sequence[str] = ("update",),
    budget: float | None = 0.01,
    when_full: Literal["drop", "wait"] | None = None,
    flush_every: float = 2.0,
    start_step: int | None = None,
    strict: bool = False,
    run: str | None = None,
    config: Mapping[str, Any] | None = None,
    on_finding: OnFinding | None = None,
    also: Sequence[Sink] = (),
) -> Recorder:
    """Record the geometry of what an optimizer does to a model, from the next step on.

    The training run is not changed: not a bit of its weights, not its random state. Inside the
    run nothing raises; a failure is logged once, recorded, and ends the capture.

    Args:
        model: whose matrices are watched.
        optimizer: one that has `param_groups` and `step`, or several. Of accelerate's and
            Lightning's wrappers, the optimizer inside is watched.
        out: the folder of the trace, or a URI of an object store ("s3://bucket/runs/a"), any that
            pyarrow.fs opens: docs/keeping.md says where records wait when the store is away.
        every: steps between captures of neuron norms and scalars.
        spectra_every: steps between captures of singular values, a multiple of `every`; None:
            the same.
        updates_every: steps between captures of raw matrices, a multiple of `every`; None:
            20 * every; 0: never.
        burst: consecutive steps per capture of spectra and raw matrices.
        layers: a regular expression, a kind of layer such as "mlp.up", a family such as "mlp",
            several of these, a mapping from these to a Clock, or a callable (name, parameter) ->
            bool; None: every matrix but embeddings.
        views: how a parameter is seen as matrices where no rule says it, or something else is
            wanted, by a regular expression or a kind: {"attention.qkv": View(split="qkv")}.
        stages: which matrices of a step: gradient, momentum, second_moment, ns_input,
            orthogonalized, update, weight.
        budget: the share of the run's time that capture may take, by thinning layers. None: the
            clocks alone decide.
        when_full: what happens where capture is faster than what measures and writes: "drop" rows
            and count them, or let the run "wait". None: "wait" without a budget, else "drop".
        flush_every: seconds between writes of what was measured: a process that is killed loses no
            more than that.
        start_step: opens a new attempt in an existing trace, at this step.
        strict: raise what would otherwise only stop the capture.
        run: the run's name; None: the last part of `out`.
        config: anything of JSON that should be kept beside the records.
        on_finding: called with a `geometry.Finding` when the rules of docs/diagnose.md find
            something, once per rule and severity: after a captured step, on every rank at the same
            one, and at the end by rank 0. What it raises is raised from `optimizer.step()`, or from
            `close`, so that a job may stop itself.
        also: sinks of `optgeom.sinks`, such as TensorBoard(folder): get a few numbers every few
            seconds, docs/frameworks.md.

    Returns:
        The recorder: a context manager, to be closed after training.

    Raises:
        WatchError: a setting, layer filter or optimizer that cannot work, with the way out.
        TraceExists: `out` holds a trace and `start_step` is None.
        TraceError: `out` cannot be written, or a live process is writing to it.
    """
    given_optimizers = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
    optimizers = [unwrapped(one) for one in given_optimizers]
    _check(model, optimizers, stages, budget, start_step)
    if on_finding is not None and not callable(on_finding):
        raise WatchError(f"on_finding takes a function of one finding, got {on_finding!r}")
    sinks = checked(also)
    if when_full not in (None, "drop", "wait"):
        raise WatchError(f'when_full must be "drop", "wait" or None, got {when_full!r}')
    if not 0.0 < flush_every < math.inf:
        raise WatchError(f"flush_every must be a number of seconds, got {flush_every!r}")
    given = Clock(
        every=every, spectra_every=spectra_every, updates_every=updates_every, burst=burst
    )
    own = Clock().over(given)
    of = _clocks(layers, given)
    if is_disabled():
        where = os.fspath(out)
        where = masked(where) if is_uri(where) else shown(Path(where).absolute())
        announce(f"{VARIABLE} is set: nothing is captured, {where} not made")
        return Disabled(start_step or 0)
    captured, decisions = select(model, optimizers, layers, views)
    groups = [layer.chosen_by if layer.chosen_by in of else None for layer in captured]
    clocks = [own if group is None else of[group] for group in groups]
    wait = budget is None if when_full is None else when_full == "wait"
    capture = {
        **{name: getattr(own, name) for name in CADENCES},
        **cadences(groups, clocks),
        "stages": list(stages),
        "budget": budget,
        "when_full": "wait" if wait else "drop",
    }
    targets = targets_of(captured)
    ranks = Ranks([captured[t.layers[0]].name for t in targets], [t.parameter for t in targets])
    info = run_info(
        run or name_of(os.fspath(out)),
        captured,
        optimizers,
        capture=capture,
        config=config or {},
        world_size=ranks.size,
    )
    try:
        following = Following(sinks if ranks.rank == 0 else (), start_step=start_step)
        check = partial(_check_sinks, sinks, info, out, start_step)
        writer, room = _open(
            out, info, ranks, start_step, following, check, wait=wait, flush_every=flush_every
        )
    except BaseException:
        ranks.close()
        raise
    recorder = Recorder(
        model,
        optimizers,
        captured,
        decisions,
        writer,
        ranks,
        clocks=clocks,
        groups=groups,
        budget=budget,
        settings=capture,
        stages=tuple(stage for stage in STAGES if stage in stages),
        optimizer_names=names_of(optimizers),
        start_step=start_step or 0,
        strict=strict,
        wait=wait,
        room=room,
        beside=Beside(
            Findings(writer.place, on_finding, reads=ranks.rank == 0, start_step=start_step or 0),
            following,
        ),
    )
    for one in given_optimizers:
        rewired(one)
    following.start(writer.place, writer.scalar)
    return recorder


def _clocks(layers: LayerFilter, given: Clock) -> dict[str, Clocks]:
    """The clocks of the groups that a mapping names."""
    found: dict[str, Clocks] = {}
    for key, clock in layers.items() if isinstance(layers, Mapping) else ():
        if not isinstance(clock, Clock):
            raise WatchError(
                f"layers= maps to optgeom.hooks.Clock, got {clock!r} for {key!r}: write "
                f"{{{key!r}: Clock(every=10)}}"
            )
        try:
            found[key] = clock.over(given)
        except WatchError as error:
            raise WatchError(f"layers={{{key!r}: ...}}: {error}") from error
    return found


def _check_sinks(
    sinks: Sequence[Sink], info: RunInfo, out: str | os.PathLike[str], start_step: int | None
) -> None:
    """Refuse what would be refused later: a sink's own run is seen as soon as it opens."""
    if sinks:
        check_wanted(sinks, info)
        check_run(out, info, start_step=start_step)


def _open(
    out: str | os.PathLike[str],
    info: RunInfo,
    ranks: Ranks,
    start_step: int | None,
    following: Following,
    check: Callable[[], None],
    **settings: Any,
) -> tuple[TraceWriter, Room]:
    """Rank 0 opens the sinks, makes the trace, or fails for all; then the others add their parts.

    Args:
        out: of the trace.
        info: what its run.json shall say.
        ranks: all of them.
        start_step: of a new attempt.
        following: opens the sinks.
        check: raises what is to be known before a sink opens.
        **settings: of the writer.

    Returns:
        This rank's writer, and the room for the raw matrices of all.
    """
    make = partial(
        TraceWriter, out, info, start_step=start_step, prepare=use_one_thread, **settings
    )
    writer: TraceWriter | None = None
    refusal: Exception | None = None
    attempt: int | None = None
    room = Room(0)
    if ranks.rank == 0:
        try:
            check()
            following.open(info.run)
            writer = make()
            attempt, room = writer.attempt, room_of(writer)
        except Exception as error:  # noqa: BLE001 -- the other ranks wait for the answer
            refusal = error
            following.close()
    attempt, room, refused = ranks.share((attempt, room, refusal))
    if refused is not None:
        raise refused
    if writer is None:
        writer = make(rank=ranks.rank, attempt=attempt)
    return writer, room


def _check(
    model: object,
    optimizers: Sequence[object],
    stages: Sequence[str],
    budget: float | None,
    start_step: int | None,
) -> None:
    if not isinstance(model, nn.Module):
        raise WatchError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not optimizers:
        raise WatchError("optimizer must be one optimizer or several, got none")
    for optimizer in optimizers:
        if not hasattr(optimizer, "param_groups"):
            raise WatchError(
                f"an optimizer needs param_groups, {type(optimizer).__name__} has none: give it "
                "one, or pass the optimizer that it wraps"
            )
        if not hasattr(optimizer, "__dict__"):
            raise WatchError(
                f"{type(optimizer).__name__} has no room for a wrapped step (__slots__): "
                "use rec.applying() around a small object that holds its param_groups"
            )
    if len({id(optimizer) for optimizer in optimizers}) < len(optimizers):
        raise WatchError("each optimizer is watched once, got one of them twice")
    if isinstance(stages, str) or not stages:
        raise WatchError(f'stages takes a tuple of names such as ("update",), got {stages!r}')
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise WatchError(f"stages must be among {', '.join(STAGES)}, got {unknown[0]!r}")
    if budget is not None and not 0.0 < budget < 1.0:
        raise WatchError(f"budget must be a share between 0 and 1, or None, got {budget!r}")
    if start_step is not None and (
        isinstance(start_step, bool) or not isinstance(start_step, int) or start_step < 0
    ):
        raise WatchError(f"start_step must be an integer of at least 0, got {start_step!r}")
