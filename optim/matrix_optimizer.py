"""The step that Muon and NorMuon share: one visible road from gradient to weight.

gradient -> momentum -> look-ahead -> gather -> orthogonalize -> the subclass's rule
-> take back -> weight decay -> weight. Subclasses give the rule, never the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from optgeom.optim.adamw import adamw_step_
from optgeom.optim.checks import check_choice, check_lr
from optgeom.optim.families import AdamWSettings, MatrixSettings, with_overrides
from optgeom.optim.momentum import accumulate_, look_ahead
from optgeom.optim.newton_schulz import COEFFICIENT_SETS, orthogonalize
from optgeom.optim.sharding import gather, local, take_back

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

    Attributes:
        stage_observer: Called as ``observer(parameter, stage, tensor)`` with the stages
            "ns_input" and "orthogonalized", whole (m, n) matrices, rows = neurons, and for every
            parameter "update", of the shape of its local part, before the weights are written.
            The tensors are live: whoever keeps one copies it. None, and nothing is called.
    """

    algorithm: ClassVar[str]
    settings_type: ClassVar[type[MatrixSettings]]
    stage_observer: StageObserver | None = None

    def __init__(
        self, params: ParamsOrGroups, lr: float | Tensor, settings: MatrixSettings
    ) -> None:
        check_lr(lr)
        super().__init__(params, {"lr": lr, **asdict(settings)})

    # -- seams ---------------------------------------------------------------------------

    def extra_state(self, shape: torch.Size, settings: Any) -> dict[str, tuple[int, ...]]:
        """Shapes of float32 state beyond the momentum, by name, for one parameter.

        Args:
            shape: The global (..., m, n) shape.
            settings: An instance of ``settings_type``.
        """
        del shape, settings
        return {}

    def rule(self, orthogonalized: Tensor, state: dict[str, Any], settings: Any) -> Tensor:
        """Turn the orthogonalized matrix into the update; W moves by -lr * update.

        Args:
            orthogonalized: (..., m, n), the whole matrix, float32; may be overwritten.
            state: The parameter's state; ``extra_state`` may be overwritten in place.
            settings: An instance of ``settings_type``.

        Returns:
            (..., m, n) float32.
        """
        raise NotImplementedError

    # -- the step ------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch types two overloads
        """Perform one step over every parameter that has a gradient.

        ``p.grad`` is read, never written.

        Args:
            closure: Reevaluates the model and returns the loss.

        Returns:
            The closure's loss, or None.

        Raises:
            ValueError: A sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["algorithm"] == "adamw":
                self._step_adamw(group)
            else:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        settings = _settings_in(group, self.settings_type)
        lr = float(group["lr"])
        for p in group["params"]:
            gradient = _dense_gradient(p)
            if gradient is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())
                state["momentum"] = torch.zeros_like(p)
                for name, shape in self.extra_state(p.shape, settings).items():
                    state[name] = torch.zeros(shape, dtype=torch.float32, device=p.device)
            state["step"] += 1

            gradient = local(gradient)
            momentum = accumulate_(local(state["momentum"]), gradient, settings=settings)
            ns_input = gather(look_ahead(momentum, gradient, settings=settings), like=p)
            orthogonalized = orthogonalize(
                ns_input,
                coefficients=settings.coefficients,
                steps=settings.ns_steps,
                dtype=settings.ns_dtype,
            )
            if self.stage_observer is not None:
                self.stage_observer(p, "ns_input", ns_input)
                self.stage_observer(p, "orthogonalized", orthogonalized)
            # row by row in memory, like the weights: a tall matrix comes transposed
            widened = orthogonalized.to(torch.float32, memory_format=torch.contiguous_format)
            update = take_back(self.rule(widened, state, settings), like=p)
            if self.stage_observer is not None:
                self.stage_observer(p, "update", update)

            if settings.weight_decay != 0:
                p.mul_(1 - lr * settings.weight_decay)
            p.add_(update, alpha=-lr)

    def _step_adamw(self, group: dict[str, Any]) -> None:
        settings = _settings_in(group, AdamWSettings)
        lr = float(group["lr"])
        for p in group["params"]:
            gradient = _dense_gradient(p)
            if gradient is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
            state["step"] += 1
            observer = self.stage_observer
            adamw_step_(
                p,
                gradient,
                state["exp_avg"],
                state["exp_avg_sq"],
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


def _dense_gradient(p: Tensor) -> Tensor | None:
    if p.grad is not None and p.grad.is_sparse:
        raise ValueError(
            f"sparse gradients are not supported (parameter of shape {tuple(p.shape)}): "
            "build the embedding with sparse=False"
        )
    return p.grad


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
