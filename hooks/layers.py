"""Which parameters are captured, and how each is seen as matrices with rows = neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from optgeom.hooks.errors import WatchError
from optgeom.hooks.filters import Chooser, LayerFilter, Pattern, listed
from optgeom.hooks.fused import fused
from optgeom.hooks.names import block_of, kind_of_piece, piece_name
from optgeom.hooks.seen import Seen, parameters_of
from optgeom.hooks.sharding import placement_of
from optgeom.hooks.stored import overridden
from optgeom.hooks.terms import precision
from optgeom.hooks.views import HEAD, Piece, View, cut

NOT_NAMED = "layers= does not name it"
EMBEDDING = "embeddings are off by default: name it in layers="

__all__ = ["Decision", "Layer", "LayerFilter", "as_float", "select"]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One captured matrix: a piece of a parameter, and where that stands.

    Layers of one parameter stand next to each other.

    Attributes:
        name: the parameter's cleaned name, with the piece's labels in brackets.
        kind: of layer, of this piece.
        block: depth in the model, None outside blocks.
        parameter: that the matrix is seen in.
        parameter_name: its cleaned name.
        shape: (neurons, inputs) of this piece.
        piece: how it is cut out.
        optimizer: the place of its optimizer among the watched ones.
        group: the place of its group in that optimizer.
        algorithm: what the group says it is updated by.
        placement: how the parameter lies on its mesh, in words.
        chosen_by: which key of a `layers=` mapping chose it.
    """

    name: str
    kind: str
    block: int | None
    parameter: nn.Parameter
    parameter_name: str
    shape: tuple[int, int]
    piece: Piece
    optimizer: int
    group: int
    algorithm: str | None
    placement: str
    chosen_by: str | None = None

    @property
    def split(self) -> str | None:
        """What the piece is, such as "q", "3" or "3,gate"; None for a whole parameter."""
        return ",".join(self.piece.labels) or None

    @property
    def transposed(self) -> bool:
        """Whether the module keeps inputs before outputs."""
        return self.piece.stored.transposed

    def matrix(self, tensor: Tensor) -> Tensor:
        """See a tensor of the parameter's global shape as this layer's (neurons, inputs).

        It shares memory with `tensor` wherever strides can express it.
        """
        return self.piece.matrix(tensor)


@dataclass(frozen=True, slots=True)
class Decision:
    """What `Recorder.describe` says of one parameter.

    Attributes:
        name: cleaned.
        shape: as stored, global.
        reason: why it is not captured, or the kind of layer that it is.
        notes: what else there is to know, in a few words each.
        matrices: kind and shape of each one that is captured.
    """

    name: str
    shape: tuple[int, ...]
    reason: str
    notes: tuple[str, ...] = ()
    matrices: tuple[tuple[str, tuple[int, int]], ...] = ()

    @property
    def captured(self) -> bool:
        """Whether any matrix of it is."""
        return bool(self.matrices)


def select(
    model: nn.Module,
    optimizers: Sequence[Any],
    layers: LayerFilter = None,
    views: Mapping[str, View] | None = None,
) -> tuple[tuple[Layer, ...], tuple[Decision, ...]]:
    """Decide for every parameter of a model whether it is captured, and as what.

    By default every matrix that an optimizer updates is captured but embeddings; a filter
    replaces that default.

    Args:
        model: whose named parameters are searched.
        optimizers: the watched optimizers; a parameter that none of them holds is left out.
        layers: a regular expression searched in the names of layers, a kind such as "mlp.up", a
            family of kinds such as "mlp", "*" for what is captured by default, several of these,
            a mapping whose keys are these, a callable (name, parameter) -> bool, or None.
        views: how parameters are seen where the rules do not say it, by a regular expression
            searched in their cleaned names, a kind or a family; the first that names one counts.

    Returns:
        The captured layers in the model's order, and one decision per parameter.

    Raises:
        WatchError: nothing is left to capture, a pattern matches nothing, or it is no regular
            expression; a view does not fit a parameter.
    """
    places = _places(optimizers)
    chooser, viewer = Chooser.of(layers), _Viewer.of(views)
    captured: list[Layer] = []
    decisions: list[Decision] = []
    candidates: list[str] = []
    for seen in parameters_of(model):
        reason = seen.refused(is_held=id(seen.parameter) in places)
        pieces: tuple[Piece, ...] = ()
        if reason is None:
            pieces, reason = viewer.pieces(seen)
        candidates += [piece_name(seen.name, piece.labels) for piece in pieces]
        chosen = [
            _layer(seen, piece, places, key)
            for piece in pieces
            for wanted, key in [_choose(chooser, seen, piece)]
            if wanted
        ]
        if reason is None and not chosen:
            off = layers is None and seen.kind == "embedding"
            reason = EMBEDDING if off else NOT_NAMED
        captured += chosen
        decisions.append(_decision(seen, chosen, pieces, reason or seen.kind))
    for unused, setting, what in (
        (sorted(chooser.unused), "layers", "no matrix that is updated"),
        (sorted(viewer.unused), "views", "no parameter that could be captured"),
    ):
        if unused:
            known = candidates if setting == "layers" else viewer.names
            raise WatchError(
                f"{setting}={unused[0]!r} names {what}; there are: {listed(known, unused[0])}"
            )
    if not captured:
        reasons = sorted({d.reason for d in decisions})
        listing = "; ".join(reasons) or "the model has no parameters"
        raise WatchError(f"nothing to capture: {listing}")
    return tuple(captured), tuple(decisions)


class _Viewer:
    """`views=`, as it was given; remembers which entries have named nothing yet."""

    def __init__(self, views: Mapping[str, View]) -> None:
        self._views = [(Pattern.of(text, "views"), view) for text, view in views.items()]
        self.unused = set(views)
        self.names: list[str] = []

    @classmethod
    def of(cls, views: Mapping[str, View] | None) -> _Viewer:
        views = {} if views is None else views
        if not isinstance(views, Mapping):
            raise WatchError(f"views takes a mapping from patterns to View, got {views!r}")
        for pattern, view in views.items():
            if not isinstance(view, View):
                raise WatchError(f"views[{pattern!r}] must be a View, got {view!r}")
        return cls(views)

    def pieces(self, seen: Seen) -> tuple[tuple[Piece, ...], str | None]:
        """Cut a parameter; no pieces and a reason where no rule and no view knows how."""
        self.names.append(seen.name)
        found = [(p.text, view) for p, view in self._views if p.means(seen.name, (seen.kind,))]
        self.unused.difference_update(text for text, _ in found)
        if not found:
            if isinstance(seen.stored, str):
                return (), seen.stored
            return cut(seen.shape, seen.stored), None
        text, view = found[0]
        try:
            known = overridden(seen.stored, view, seen.shape)
            whole = cut(seen.shape, known)[0].shape
            parts = fused(view, whole, seen.place)
            columns = seen.kind == "attention.o"
            return cut(seen.shape, known, view, fused=parts, heads_are_columns=columns), None
        except WatchError as error:
            raise WatchError(f"views[{text!r}] does not fit {seen.name}: {error}") from error


_Places = Mapping[int, tuple[int, int, Mapping[str, Any]]]


def _places(optimizers: Sequence[Any]) -> _Places:
    """From a parameter's id to its (optimizer, group, group settings)."""
    return {
        id(parameter): (i, j, group)
        for i, optimizer in enumerate(optimizers)
        for j, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }


def _choose(chooser: Chooser, seen: Seen, piece: Piece) -> tuple[bool, str | None]:
    return chooser.chooses(
        piece_name(seen.name, piece.labels),
        (kind_of_piece(seen.kind, piece.labels), seen.kind),
        seen.parameter,
        by_default=seen.kind != "embedding",
    )


def _layer(seen: Seen, piece: Piece, places: _Places, key: str | None) -> Layer:
    optimizer, group, settings = places[id(seen.parameter)]
    return Layer(
        name=piece_name(seen.name, piece.labels),
        kind=kind_of_piece(seen.kind, piece.labels),
        block=block_of(seen.name),
        parameter=seen.parameter,
        parameter_name=seen.name,
        shape=piece.shape,
        piece=piece,
        optimizer=optimizer,
        group=group,
        algorithm=settings.get("algorithm"),
        placement=placement_of(seen.parameter).label,
        chosen_by=key,
    )


def _decision(
    seen: Seen, chosen: Sequence[Layer], pieces: Sequence[Piece], reason: str
) -> Decision:
    notes = [f"tied to {', '.join(seen.others)}"] if seen.others else []
    if chosen:
        notes = [*_cuts(pieces), *notes]
    if chosen and len(chosen) < len(pieces):
        notes.append(f"the other {len(pieces) - len(chosen)} are not named in layers=")
    matrices = tuple((layer.kind, layer.shape) for layer in chosen)
    return Decision(seen.name, seen.shape, reason, tuple(notes), matrices)


def _cuts(pieces: Sequence[Piece]) -> list[str]:
    """How a parameter is turned and cut, in a few words."""
    first, labels = pieces[0], [label for piece in pieces for label in piece.names]
    names = list(dict.fromkeys(label for label in labels if not HEAD.fullmatch(label)))
    return [
        *([first.stored.note] if first.stored.note else []),
        *(["by expert"] if first.expert is not None else []),
        *([f"cut into {', '.join(names)}"] if names else []),
        *(["by head"] if len(labels) > len(names) and HEAD.fullmatch(labels[-1]) else []),
    ]


def as_float(tensor: Tensor) -> Tensor:
    """The tensor in the precision that folds are made in: float64 stays, the rest is float32."""
    return tensor.detach().to(precision(tensor))
