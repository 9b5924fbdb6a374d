"""The step that Muon and NorMuon share: one visible road from gradient to weight.

gradient -> momentum -> look-ahead -> to its owner -> orthogonalize -> home -> the subclass's rule
-> weight decay -> weight. Subclasses give the rule, never the step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from optgeom.optim.adamw import adamw_step_
from optgeom.optim.checks import check_choice, check_gradient, check_lr
from optgeom.optim.dealing import Bucket, buckets_of
from optgeom.optim.exchange import add_up, send_home, send_out, share
from optgeom.optim.families import AdamWSettings, MatrixSettings, with_overrides
from optgeom.optim.layout import layout_of, local, zeros_beside
from optgeom.optim.momentum import accumulate_, look_ahead
from optgeom.optim.newton_schulz import COEFFICIENT_SETS, DTYPES, orthogonalize
from optgeom.optim.overlap import overlapped

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["MatrixOptimizer", "ParamsOrGroups", "StageObserver"]

ParamsOrGroups: TypeAlias = (
    Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
)
StageObserver: TypeAlias = Callable[[Parameter, str, Tensor], None]

_BOOKKEEPING = ("params", "param_names", "algorithm", "lr", "initial_lr", "name")


class MatrixOptimizer(Optimizer):
    """Template of an optimizer of orthogonalized momentum, with AdamW for the rest.

    State of a matrix: ``step``, ``momentum`` (the parameter's shape and dtype), and what the
    subclass adds. State of an AdamW parameter: ``step``, ``exp_avg``, ``exp_avg_sq``.

    Matrices of one shape are orthogonalized together. Sharded ones are dealt over the ranks: each
    goes to one rank, which has it whole for a moment, and its rows come back.

    Attributes:
        replicas: The ranks that share the work on plain parameters, which are equal on all of
            them; None, and each process does it all.
        stage_observer: Called as ``observer(parameter, stage, tensor)`` with the stages
            "ns_input" and "orthogonalized" of matrices, rows = neurons, and "update" of every
            parameter, before the weights are written; each is this rank's part. The tensors are
            live: whoever keeps one copies it. None, and nothing is called.
    """

    algorithm: ClassVar[str]
    settings_type: ClassVar[type[MatrixSettings]]
    replicas: ProcessGroup | None = None
    stage_observer: StageObserver | None = None
    _dealt: tuple[object, list[list[Bucket]]] = (None, [])

    def __init__(
        self,
        params: ParamsOrGroups,
        lr: float | Tensor,
        settings: MatrixSettings,
        replicas: ProcessGroup | None = None,
    ) -> None:
        check_lr(lr)
        self.replicas = replicas
        super().__init__(params, {"lr": lr, **asdict(settings)})

    # -- seams ---------------------------------------------------------------------------

    def extra_state(self, shape: torch.Size, settings: Any) -> dict[str, tuple[int, ...]]:
        """Shapes of float32 state beyond the momentum, by name, for one parameter.

        Args:
            shape: The global (..., m, n) shape.
            settings: An instance of ``settings_type``.

        Returns:
            A shape that begins like the parameter's is sharded like the parameter.
        """
        del shape, settings
        return {}

    def sums(
        self, orthogonalized: Tensor, extras: dict[str, Tensor], settings: Any
    ) -> Tensor | None:
        """What the rule has to know of whole matrices, from the rows that this rank has.

        Args:
            orthogonalized: (k, ..., r, n) float32, this rank's rows of k matrices or stacks.
            extras: This rank's part of ``extra_state``, stacked; may be overwritten.
            settings: An instance of ``settings_type``.

        Returns:
            (k, ...) float32, to be added up over the ranks that hold the other rows; None, and
            nothing is communicated.
        """
        del orthogonalized, extras, settings
        return None

    def rule(
        self,
        orthogonalized: Tensor,
        sums: Tensor | None,
        extras: dict[str, Tensor],
        settings: Any,
        shape: tuple[int, int],
    ) -> Tensor:
        """Turn the orthogonalized matrices into the updates; W moves by -lr * update.

        Args:
            orthogonalized: As of ``sums``; may be overwritten.
            sums: Of all rows.
            extras: As of ``sums``.
            settings: An instance of ``settings_type``.
            shape: (m, n) of one whole matrix.

        Returns:
            (k, ..., r, n) float32.
        """
        raise NotImplementedError

    # -- the step ------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch types two overloads
        """Perform one step over every parameter that has a gradient.

        ``p.grad`` is read, never written. Where matrices are sharded or replicated over ranks, the
        step is a collective of theirs: a sharded matrix moves on all of them if one has a
        gradient, and replicas have gradients for the same matrices.

        Args:
            closure: Reevaluates the model and returns the loss.

        Returns:
            The closure's loss, or None.

        Raises:
            ValueError: A sparse gradient, or one that is not placed as its parameter; nothing has
                moved.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                check_gradient(p)
        matrices = [group for group in self.param_groups if group["algorithm"] != "adamw"]
        roads = [
            (bucket.layout.travels, self._road(bucket, group))
            for group, buckets in zip(matrices, self._buckets(matrices), strict=True)
            for bucket in buckets
        ]
        # apart: a matrix that one rank alone has must not change the order in which it talks
        overlapped(road for travels, road in roads if travels)
        for road in (road for travels, road in roads if not travels):
            deque(road, maxlen=0)
        for group in self.param_groups:
            if group["algorithm"] == "adamw":
                self._step_adamw(group)
        return loss

    def _buckets(self, groups: Sequence[dict[str, Any]]) -> list[list[Bucket]]:
        """Each group's matrices as they travel; dealt anew where a group has changed."""
        params = [[p for p in group["params"] if p.requires_grad] for group in groups]
        key = [list(map(id, some)) for some in params]
        if self._dealt[0] != key:
            layouts = [[layout_of(p, self.replicas) for p in some] for some in params]
            self._dealt = key, list(map(buckets_of, params, layouts))
        return self._dealt[1]

    def _road(self, bucket: Bucket, group: dict[str, Any]) -> Iterator[None]:
        """From gradients to weights; stops where it has started a communication."""
        settings, layout = _settings_in(group, self.settings_type), bucket.layout
        params = list(bucket.params)
        if not layout.travels:
            params = [p for p in params if p.grad is not None]
        if not params:
            return
        before, ns_inputs = self._look_ahead(params, settings)
        dtype = DTYPES[settings.comm_dtype or settings.ns_dtype]
        parts = [ns_input.to(dtype) for ns_input in ns_inputs]
        del ns_inputs
        if layout.travels:
            outward = send_out(parts, [p.grad is not None for p in params], bucket)
            yield
            whole = outward()
            made = self._orthogonalize(whole.matrices, settings)
            homeward = send_home(replace(whole, matrices=made), bucket)
            yield
            shared = share(homeward(), bucket)
            yield
            home = shared()
            rows = home.matrices
            skipped = [i for i, p in enumerate(params) if p.grad is None and not home.wanted[i]]
        else:
            rows, skipped = self._orthogonalize(torch.stack(parts), settings), []
        self._observe("orthogonalized", params, rows)

        # row by row in memory, like the weights: a tall matrix comes transposed
        rows = rows.to(torch.float32, memory_format=torch.contiguous_format).contiguous()
        names = self.extra_state(params[0].shape, settings)
        extras = {name: torch.stack([local(self.state[p][name]) for p in params]) for name in names}
        sums = self.sums(rows, extras, settings)
        if sums is not None and layout.shards is not None:
            added = add_up(sums, bucket)
            yield
            sums = added()
        shape = (layout.shape[-2], layout.shape[-1])
        updates = self.rule(rows, sums, extras, settings, shape)
        moved = [i for i in range(len(params)) if i not in skipped]
        for i in moved:
            for name, stack in extras.items():
                local(self.state[params[i]][name]).copy_(stack[i])
        for i in skipped:
            local(self.state[params[i]]["momentum"]).copy_(before[i])
            self.state[params[i]]["step"] -= 1

        # an observer finds the state as it is after the step
        self._observe("update", [params[i] for i in moved], [updates[i] for i in moved])
        lr = float(group["lr"])
        for i in moved:
            weights = local(params[i])
            if settings.weight_decay != 0:
                weights.mul_(1 - lr * settings.weight_decay)
            weights.add_(updates[i], alpha=-lr)

    def _look_ahead(
        self, params: Sequence[Parameter], settings: Any
    ) -> tuple[dict[int, Tensor], list[Tensor]]:
        """Fold the gradients into the momenta, and give what is orthogonalized of them.

        Where this rank has no gradient another one may: it counts as zero until that is known, and
        the momentum before is kept.
        """
        before, found = {}, []
        for i, p in enumerate(params):
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())
                state["momentum"] = torch.zeros_like(p)
                for name, shape in self.extra_state(p.shape, settings).items():
                    state[name] = zeros_beside(p, shape)
            state["step"] += 1
            momentum = local(state["momentum"])
            if p.grad is None:
                before[i], gradient = momentum.clone(), torch.zeros_like(momentum)
            else:
                gradient = local(p.grad)
            accumulate_(momentum, gradient, settings=settings)
            ns_input = look_ahead(momentum, gradient, settings=settings)
            self._observe("ns_input", [p], [ns_input])
            found.append(ns_input)
        return before, found

    def _orthogonalize(self, matrices: Tensor, settings: Any) -> Tensor:
        made = orthogonalize(
            matrices,
            coefficients=settings.coefficients,
            steps=settings.ns_steps,
            dtype=settings.ns_dtype,
        )
        return made.to(matrices.dtype)

    def _observe(self, stage: str, params: Sequence[Parameter], tensors: Iterable[Tensor]) -> None:
        if self.stage_observer is not None:
            for p, tensor in zip(params, tensors, strict=True):
                self.stage_observer(p, stage, tensor)

    def _step_adamw(self, group: dict[str, Any]) -> None:
        settings = _settings_in(group, AdamWSettings)
        lr = float(group["lr"])
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
            state["step"] += 1
            observer = self.stage_observer
            adamw_step_(
                local(p),
                local(p.grad),
                local(state["exp_avg"]),
                local(state["exp_avg_sq"]),
                step=state["step"].item(),
                lr=lr,
                settings=settings,
                observe=None if observer is None else partial(observer, p, "update"),
            )

    # -- groups and state ----------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; what it does not set comes from the optimizer's settings.

        The dictionary given is left as it is, so one list of groups serves several optimizers.

        Args:
            param_group: ``params``, and optionally ``algorithm`` ("adamw" or the optimizer's
                own), ``lr`` and any setting. An "adamw" group must bring its own ``lr``.

        Raises:
            TypeError: A setting that does not exist; the nearest is named.
            ValueError: A value outside its range, a parameter that is no matrix in a matrix
                group, an "adamw" group without ``lr``.
        """
        group = self._complete(param_group)
        complete = set(group)
        super().add_param_group(group)
        for foreign in set(self.defaults) - complete:
            del group[foreign]

    def _complete(self, param_group: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(param_group, Mapping) or "params" not in param_group:
            raise TypeError(f"a parameter group is a dict with 'params'; got {param_group!r:.80}")
        group = {key: param_group[key] for key in _BOOKKEEPING if key in param_group}
        given = {key: value for key, value in param_group.items() if key not in group}
        if not isinstance(group["params"], Tensor | set):
            group["params"] = list(group["params"])

        algorithm = group.setdefault("algorithm", self.algorithm)
        check_choice("algorithm", algorithm, choices=(self.algorithm, "adamw"))
        owner = f"{type(self).__name__} (a group of algorithm {algorithm!r})"
        if algorithm == "adamw":
            if "lr" not in group:
                raise ValueError(
                    "a group with algorithm='adamw' needs its own lr, since the matrices' lr is "
                    "not on its scale: set group['lr'], or use optgeom.optim.param_groups(model)"
                )
            group |= asdict(with_overrides(AdamWSettings(), given, owner=owner))
        else:
            group.setdefault("lr", self.defaults["lr"])
            _check_matrices(group, type(self).__name__)
            base: MatrixSettings = _settings_in(self.defaults, self.settings_type)
            settings = with_overrides(base, given, owner=owner)
            group |= asdict(settings)
            group["ns_steps"] = settings.ns_steps or COEFFICIENT_SETS[settings.coefficients].steps
        check_lr(group["lr"])
        return group

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state that ``state_dict()`` gave; continuing yields the same bits.

        Args:
            state_dict: Of an optimizer of the same class over the same groups.

        Raises:
            ValueError: The groups of the state are not this optimizer's; nothing is loaded.
        """
        saved_groups = state_dict["param_groups"]
        for index, (group, saved) in enumerate(zip(self.param_groups, saved_groups, strict=False)):
            if saved.get("algorithm") != group["algorithm"]:
                raise ValueError(
                    f"group {index} is {group['algorithm']!r} here and "
                    f"{saved.get('algorithm')!r} in the state: load it into the optimizer class "
                    "that saved it, over the same groups"
                )
        super().load_state_dict(state_dict)
        # torch casts all state to the parameter's dtype; ours beside the momentum is float32.
        for group, saved in zip(self.param_groups, saved_groups, strict=True):
            for p, key in zip(group["params"], saved["params"], strict=True):
                if p.dtype == torch.float32 or group["algorithm"] == "adamw":
                    continue
                for name, value in state_dict["state"].get(key, {}).items():
                    if name not in ("step", "momentum"):
                        self.state[p][name] = value.to(p.device)


def _settings_in(group: Mapping[str, Any], kind: type[Any]) -> Any:
    return kind(**{field.name: group[field.name] for field in fields(kind)})


def _check_matrices(group: Mapping[str, Any], owner: str) -> None:
    params = group["params"]
    names = group.get("param_names")
    for index, entry in enumerate([params] if isinstance(params, Tensor) else params):
        name, p = entry if isinstance(entry, tuple) else (names[index] if names else index, entry)
        if not isinstance(p, Tensor):
            continue
        what = f"parameter {name!r} of shape {tuple(p.shape)}"
        if p.is_complex():
            raise ValueError(f"{owner} takes real matrices; {what} is {p.dtype}")
        if p.ndim < 2:
            raise ValueError(
                f"{owner} orthogonalizes matrices; {what} has {p.ndim} dimension(s): split the "
                "model with optgeom.optim.param_groups(model), or mark its group "
                "algorithm='adamw' and give it an lr"
            )
        if p.ndim > 3:
            raise ValueError(
                f"{owner} takes (m, n) matrices and (batch, m, n) stacks of them; {what} has "
                f"{p.ndim} dimensions: mark its group algorithm='adamw' and give it an lr"
            )
        try:
            layout_of(p)
        except ValueError as error:
            raise ValueError(f"{owner}, parameter {name!r}: {error}") from None
