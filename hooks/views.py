"""How a parameter is seen as one or several matrices with rows = neurons.

A `View` is what a user says, a `Stored` is what the rules know of a parameter; `cut` makes the
pieces of both. A piece is a matrix of its own: one expert of a stack, one part of a fused matrix,
one head.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from optgeom.hooks.errors import WatchError

SHORT_FORMS: Mapping[str, tuple[str, ...]] = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
"""What `View(split=...)` takes for a mapping: the pieces in their order; sizes from the shape."""

HEAD = re.compile(r"h\d+")
"""How a head is labelled; no other piece may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a parameter is to be seen, where the rules do not know or something else is wanted.

    Only what differs from the rules is said. `View(split="qkv")` of a weight that is stored
    (in, out) still turns it.

    Attributes:
        transposed: the matrix is stored (inputs, outputs); False: it is not, whatever a rule says.
        split: sizes of the pieces along the neuron axis by their names, such as
            ``{"q": 512, "k": 128, "v": 128}``; "qkv" or "gate_up": sizes as the module tells them,
            else equal parts.
        repeats: how many times the pieces of `split` follow one another: the number of heads where
            each head keeps its own q, k and v, as GPT-NeoX does.
        heads: cut into so many heads, along the neurons, or along the inputs of an attention's
            output matrix. With `split`: the heads of its first piece; the others are cut into
            heads of that size.
        experts: the first axis counts experts, each a matrix.
        whole: one matrix: the first axis, or with `transposed` the second, against all others.
    """

    transposed: bool | None = None
    split: Mapping[str, int] | Literal["qkv", "gate_up"] | None = None
    repeats: int = 1
    heads: int | None = None
    experts: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        """Refuse what no parameter could be seen as.

        Raises:
            WatchError: sizes, counts or names that cannot be, or settings that exclude each other.
        """
        for name, count in (("repeats", self.repeats), ("heads", self.heads)):
            if count is not None and not _is_count(count):
                raise WatchError(f"View({name}=...) takes an integer of at least 1, got {count!r}")
        if isinstance(self.split, str) and self.split not in SHORT_FORMS:
            raise WatchError(
                f"View(split=...) takes {' or '.join(map(repr, SHORT_FORMS))}, or sizes by name "
                f"such as {{'q': 512, 'k': 128, 'v': 128}}, got {self.split!r}"
            )
        if isinstance(self.split, Mapping):
            _check_sizes(self.split)
        elif self.split is not None and not isinstance(self.split, str):
            raise WatchError(
                "View(split=...) takes a mapping from names to sizes, got "
                f"{type(self.split).__name__}: {self.split!r}"
            )
        if self.repeats > 1 and self.split is None:
            raise WatchError("View(repeats=...) says how often the pieces of split= follow: add it")
        if self.whole and (self.split or self.heads or self.experts):
            raise WatchError("View(whole=True) is one matrix: no split, heads or experts beside it")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_sizes(split: Mapping[str, int]) -> None:
    if not split:
        raise WatchError("View(split={}) has no pieces: name them with their sizes")
    for name, size in split.items():
        if not isinstance(name, str) or not name or set(name) & set("[],"):
            raise WatchError(f"a piece of View(split=...) is called by a plain word, got {name!r}")
        if HEAD.fullmatch(name) or name.isdigit():
            raise WatchError(
                f"{name!r} is what a head or an expert is called, not a piece: rename it"
            )
        if not _is_count(size):
            raise WatchError(
                f"View(split=...) takes sizes that are integers of at least 1, got {name}={size!r}"
            )


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known of how a module keeps a parameter.

    Attributes:
        experts: the first axis counts experts.
        transposed: inputs stand before outputs.
        groups: of a transposed convolution, which keeps (in, out / groups, ...).
        note: in a few words, for `describe`.
    """

    experts: bool = False
    transposed: bool = False
    groups: int = 1
    note: str = ""


@dataclass(frozen=True, slots=True)
class Fused:
    """How the pieces of a fused matrix lie along its neurons: their sizes, repeated."""

    sizes: Mapping[str, int]
    repeats: int = 1


def _parted(tensor: Tensor, parts: int) -> Tensor:
    """The first axis as two, the outer of `parts`."""
    return tensor.view(parts, tensor.shape[0] // parts, *tensor.shape[1:])


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of a matrix, or its columns: `size` from `start` on, in each of `repeats` parts."""

    start: int
    size: int
    repeats: int = 1
    columns: bool = False

    def of(self, matrix: Tensor) -> Tensor:
        """Cut the block out, as a view unless rows of several parts must be put together."""
        if self.repeats == 1:
            return matrix.narrow(-1 if self.columns else 0, self.start, self.size)
        parts = _parted(matrix, self.repeats)
        return parts.narrow(1, self.start, self.size).flatten(0, 1)


@dataclass(frozen=True, slots=True)
class Piece:
    """One matrix of a parameter.

    Attributes:
        shape: (neurons, inputs).
        stored: how the parameter is kept.
        labels: what the piece is, outermost first: ("3", "gate"); none where the parameter is one
            matrix.
        expert: which one of a stack.
        block: the part of the matrix; None: all of it.
    """

    shape: tuple[int, int]
    stored: Stored = Stored()
    labels: tuple[str, ...] = ()
    expert: int | None = None
    block: Block | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The labels without the expert's."""
        return self.labels if self.expert is None else self.labels[1:]

    def matrix(self, tensor: Tensor) -> Tensor:
        """See a tensor of the parameter's global shape as this piece.

        Args:
            tensor: (...) of any dtype.

        Returns:
            (neurons, inputs), sharing memory with `tensor` wherever strides can express it.
        """
        if self.expert is not None:
            tensor = tensor[self.expert]
        if self.stored.groups > 1:  # (g * in, out, ...) -> (g * out, in, ...)
            tensor = _parted(tensor, self.stored.groups).transpose(1, 2).flatten(0, 1)
        elif self.stored.transposed:
            tensor = tensor.transpose(0, 1)
        if tensor.ndim > 2:
            tensor = tensor.flatten(1)
        return tensor if self.block is None else self.block.of(tensor)


def cut(
    shape: tuple[int, ...],
    stored: Stored,
    view: View | None = None,
    *,
    fused: Fused | None = None,
    heads_are_columns: bool = False,
) -> tuple[Piece, ...]:
    """Cut a parameter into matrices; every entry is in exactly one of them.

    Args:
        shape: the parameter's, of at least two axes.
        stored: what the rules, and then the view, say of it.
        view: that asks for pieces; None: only experts are cut.
        fused: the pieces of `view.split`, with sizes.
        heads_are_columns: the heads are in the inputs, as in an attention's output matrix.

    Returns:
        The pieces: expert by expert, in each the pieces in their order, in each its heads.

    Raises:
        WatchError: sizes that do not add up, heads that do not divide; the message begins with
            the numbers and needs the parameter's name before it.
    """
    whole = _matrix_shape(shape[1:] if stored.experts else shape, stored)
    parts = list(_parts(whole, view or View(), fused, heads_are_columns=heads_are_columns))
    return tuple(
        Piece(size, stored, labels if expert is None else (str(expert), *labels), expert, block)
        for expert in (range(shape[0]) if stored.experts else [None])
        for labels, size, block in parts
    )


def _matrix_shape(shape: tuple[int, ...], stored: Stored) -> tuple[int, int]:
    """The shape of a matrix before it is cut; all axes but the neurons' are inputs."""
    if not stored.transposed:
        return shape[0], math.prod(shape[1:])
    rows = shape[1] * stored.groups
    return rows, math.prod(shape) // rows if rows else 0


_Part = tuple[tuple[str, ...], tuple[int, int], Block | None]


def _parts(
    shape: tuple[int, int], view: View, fused: Fused | None, *, heads_are_columns: bool
) -> Iterator[_Part]:
    """What a matrix is cut into: labels, shape and place of each piece."""
    if fused is not None:
        yield from _split(shape, fused, view.heads)
    elif view.heads is None:
        yield (), shape, None
    else:
        rows, columns = shape
        what = f"{columns} inputs" if heads_are_columns else f"{rows} neurons"
        size = _head_size(columns if heads_are_columns else rows, view.heads, what)
        for head in range(view.heads):
            block = Block(head * size, size, columns=heads_are_columns)
            yield (f"h{head}",), (rows, size) if heads_are_columns else (size, columns), block


def _head_size(length: int, heads: int, what: str) -> int:
    if length % heads:
        raise WatchError(f"its {what} do not divide into heads={heads}")
    return length // heads


def _split(shape: tuple[int, int], fused: Fused, heads: int | None) -> Iterator[_Part]:
    rows, columns = shape
    total = sum(fused.sizes.values())
    if total * fused.repeats != rows:
        times = f", {fused.repeats} times" if fused.repeats > 1 else ""
        raise WatchError(
            f"its {rows} neurons do not split into "
            f"{' + '.join(f'{size} ({name})' for name, size in fused.sizes.items())} = "
            f"{total}{times}"
        )
    name, first = next(iter(fused.sizes.items()))
    first *= fused.repeats
    head = None if heads is None else _head_size(first, heads, f"{first} neurons of {name}")
    start = 0
    for name, size in fused.sizes.items():
        if head is None:
            block = Block(start, size, fused.repeats)
            yield (name,), (size * fused.repeats, columns), block
        else:
            if size % head:
                raise WatchError(
                    f"heads of {head} rows ({heads} in the first piece) do not fit into the "
                    f"{size} rows of {name}"
                )
            for number in range(size * fused.repeats // head):
                part, place = divmod(number * head, size)
                block = Block(part * total + start + place, head)
                yield (name, f"h{number}"), (head, columns), block
        start += size
