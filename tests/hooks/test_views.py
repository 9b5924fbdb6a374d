"""How a parameter is cut into matrices: every entry once, where numpy slicing by hand puts it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optgeom.hooks import View, WatchError
from optgeom.hooks.views import Fused, Piece, Stored, cut


def numbered(shape: tuple[int, ...]) -> torch.Tensor:
    """Every entry is its own place in memory."""
    return torch.arange(int(np.prod(shape))).view(shape)


def arrays(pieces: tuple[Piece, ...], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Each piece of a numbered tensor, by its labels."""
    tensor = numbered(shape)
    return {
        "".join(f"[{x}]" for x in piece.labels): piece.matrix(tensor).numpy() for piece in pieces
    }


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for label, array in expected.items():
        assert np.array_equal(found[label], array), label


def test_a_plain_matrix_is_itself() -> None:
    tensor = torch.randn(3, 4)
    (piece,) = cut((3, 4), Stored())
    assert piece.shape == (3, 4)
    assert piece.matrix(tensor) is tensor


def test_a_stored_transposed_matrix_is_turned() -> None:
    a = numbered((3, 4)).numpy()
    same(arrays(cut((3, 4), Stored(transposed=True)), (3, 4)), {"": a.T})


def test_convolutions_are_flattened_by_output() -> None:
    a = numbered((4, 3, 2, 5)).numpy()
    same(arrays(cut((4, 3, 2, 5), Stored()), (4, 3, 2, 5)), {"": a.reshape(4, 30)})


def test_a_transposed_convolution_has_a_row_per_output() -> None:
    a = numbered((4, 3, 2, 5)).numpy()  # (in, out, height, width)
    rows = np.stack([a[:, out].reshape(-1) for out in range(3)])
    same(arrays(cut((4, 3, 2, 5), Stored(transposed=True)), (4, 3, 2, 5)), {"": rows})


def test_a_grouped_transposed_convolution_has_a_row_per_output() -> None:
    a = numbered((6, 2, 3)).numpy()  # 3 groups of 2 inputs and 2 outputs each
    rows = np.stack(
        [a[2 * group : 2 * group + 2, out].reshape(-1) for group in range(3) for out in range(2)]
    )
    pieces = cut((6, 2, 3), Stored(transposed=True, groups=3))
    assert pieces[0].shape == rows.shape == (6, 6)
    same(arrays(pieces, (6, 2, 3)), {"": rows})


def test_a_grouped_transposed_convolution_computes_with_these_rows() -> None:
    """Each row, against the inputs of its group, is what the module makes of one pixel."""
    module = torch.nn.ConvTranspose1d(6, 4, 1, groups=2, bias=False)
    x = torch.randn(6)
    (piece,) = cut(tuple(module.weight.shape), Stored(transposed=True, groups=2))
    rows = piece.matrix(module.weight.detach())
    expected = torch.cat([rows[:2] @ x[:3], rows[2:] @ x[3:]])
    assert torch.allclose(module(x[None, :, None]).flatten(), expected, atol=1e-6)


@pytest.mark.parametrize("transposed", [False, True])
def test_experts_are_matrices_of_their_own(transposed: bool) -> None:
    a = numbered((3, 4, 5)).numpy()
    pieces = cut((3, 4, 5), Stored(experts=True, transposed=transposed))
    same(
        arrays(pieces, (3, 4, 5)),
        {f"[{e}]": a[e].T if transposed else a[e] for e in range(3)},
    )


def test_a_fused_matrix_is_cut_along_its_neurons() -> None:
    a = numbered((8, 3)).numpy()
    view = View(split={"q": 4, "k": 2, "v": 2})
    pieces = cut((8, 3), Stored(), view, fused=Fused({"q": 4, "k": 2, "v": 2}))
    same(arrays(pieces, (8, 3)), {"[q]": a[:4], "[k]": a[4:6], "[v]": a[6:]})


def test_interleaved_heads_are_put_together() -> None:
    a = numbered((12, 3)).numpy()  # two heads, each of q, k, v with two rows
    pieces = cut((12, 3), Stored(), View(split="qkv"), fused=Fused(dict.fromkeys("qkv", 2), 2))
    same(
        arrays(pieces, (12, 3)),
        {
            "[q]": a[[0, 1, 6, 7]],
            "[k]": a[[2, 3, 8, 9]],
            "[v]": a[[4, 5, 10, 11]],
        },
    )


def test_the_heads_of_interleaved_pieces() -> None:
    a = numbered((16, 3)).numpy()  # two groups of two q heads, one k and one v, two rows each
    view = View(split="qkv", heads=4)
    pieces = cut((16, 3), Stored(), view, fused=Fused({"q": 4, "k": 2, "v": 2}, 2))
    starts = {"[q]": [0, 2, 8, 10], "[k]": [4, 12], "[v]": [6, 14]}
    same(
        arrays(pieces, (16, 3)),
        {
            f"{label}[h{head}]": a[start : start + 2]
            for label, places in starts.items()
            for head, start in enumerate(places)
        },
    )


def test_experts_that_alternate_gate_and_up() -> None:
    a = numbered((2, 3, 8)).numpy()  # GPT-OSS: (experts, in, 2 * out), even columns are the gate
    stored = Stored(experts=True, transposed=True)
    pieces = cut((2, 3, 8), stored, View(split="gate_up"), fused=Fused({"gate": 1, "up": 1}, 4))
    same(
        arrays(pieces, (2, 3, 8)),
        {
            f"[{e}][{name}]": a[e, :, start::2].T
            for e in range(2)
            for start, name in enumerate(("gate", "up"))
        },
    )


def test_heads_of_neurons_and_of_inputs() -> None:
    a = numbered((6, 4)).numpy()
    same(
        arrays(cut((6, 4), Stored(), View(heads=2)), (6, 4)),
        {"[h0]": a[:3], "[h1]": a[3:]},
    )
    same(
        arrays(cut((6, 4), Stored(), View(heads=2), heads_are_columns=True), (6, 4)),
        {"[h0]": a[:, :2], "[h1]": a[:, 2:]},
    )


SIZES = st.integers(1, 4)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[Piece, ...]]:
    """A stored parameter of any layout, and its pieces."""
    transposed, experts = draw(st.booleans()), draw(st.sampled_from([0, 1, 3]))
    columns = draw(SIZES)
    head, repeats = draw(SIZES), draw(SIZES)
    fused, view, sideways = None, View(), draw(st.booleans())
    if draw(st.booleans()):
        names = [f"p{i}" for i in range(draw(SIZES))]
        fused = Fused({name: head * draw(SIZES) for name in names}, repeats)
        rows = sum(fused.sizes.values()) * repeats
        first = fused.sizes["p0"] * repeats // head
        view = View(
            split=dict(fused.sizes), repeats=repeats, heads=draw(st.sampled_from([None, first]))
        )
    elif draw(st.booleans()):
        rows, columns = (columns, head * repeats) if sideways else (head * repeats, columns)
        view = View(heads=repeats)
    else:
        rows = draw(SIZES)
    shape: tuple[int, ...] = (columns, rows) if transposed else (rows, columns)
    kernel = () if experts else draw(st.sampled_from([(), (2,), (2, 3)]))
    if view.heads and sideways:
        kernel = ()
    shape = ((experts,) if experts else ()) + shape + kernel
    stored = Stored(experts=bool(experts), transposed=transposed)
    return shape, cut(shape, stored, view, fused=fused, heads_are_columns=sideways)


@given(cuts())
def test_every_entry_is_in_exactly_one_piece(
    what: tuple[tuple[int, ...], tuple[Piece, ...]],
) -> None:
    shape, pieces = what
    tensor = numbered(shape)
    matrices = [piece.matrix(tensor) for piece in pieces]
    assert [tuple(matrix.shape) for matrix in matrices] == [piece.shape for piece in pieces]
    assert len({piece.labels for piece in pieces}) == len(pieces)
    entries = torch.cat([matrix.reshape(-1) for matrix in matrices])
    assert sorted(entries.tolist()) == list(range(tensor.numel()))


@pytest.mark.parametrize(
    ("shape", "stored", "view", "fused"),
    [
        ((6, 4), Stored(transposed=True), None, None),
        ((2, 6, 4), Stored(experts=True, transposed=True), None, None),
        ((6, 4, 3, 3), Stored(), None, None),
        ((12, 4), Stored(), View(split="qkv"), Fused(dict.fromkeys("qkv", 4))),
        ((12, 4), Stored(), View(split="qkv", heads=2), Fused(dict.fromkeys("qkv", 2), 2)),
        ((2, 4, 8), Stored(True, True), View(split="gate_up"), Fused({"gate": 1, "up": 1}, 4)),
        ((6, 4), Stored(), View(heads=2), None),
    ],
)
def test_nothing_is_copied_where_strides_can_say_it(
    shape: tuple[int, ...], stored: Stored, view: View | None, fused: Fused | None
) -> None:
    tensor = torch.zeros(shape)
    for number, piece in enumerate(cut(shape, stored, view, fused=fused), 1):
        piece.matrix(tensor).fill_(number)
    assert bool((tensor > 0).all())


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"split": "kv"}, r"takes 'qkv' or 'gate_up', or sizes by name .* got 'kv'"),
        ({"split": {}}, "has no pieces"),
        ({"split": {"q": 0}}, "integers of at least 1, got q=0"),
        ({"split": {"q": True}}, "integers of at least 1, got q=True"),
        ({"split": {"q]": 4}}, r"called by a plain word, got 'q\]'"),
        ({"split": {"3": 4}}, "'3' is what a head or an expert is called"),
        ({"split": {"h3": 4}}, "'h3' is what a head or an expert is called"),
        ({"split": ["q", "k"]}, "takes a mapping from names to sizes, got list"),
        ({"heads": 0}, r"heads=\.\.\.\) takes an integer of at least 1, got 0"),
        ({"heads": 2.0}, "got 2.0"),
        ({"repeats": 2}, "add it"),
        ({"split": "qkv", "repeats": -1}, "got -1"),
        ({"whole": True, "heads": 2}, "no split, heads or experts beside it"),
        ({"whole": True, "experts": True}, "no split, heads or experts beside it"),
    ],
)
def test_a_view_that_cannot_be_is_refused(view: dict[str, Any], message: str) -> None:
    with pytest.raises(WatchError, match=message) as error:
        View(**view)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "view", "fused", "message"),
    [
        (
            9,
            View(),
            Fused({"q": 4, "k": 2, "v": 2}),
            r"its 9 neurons do not split into 4 \(q\) \+ ",
        ),
        (9, View(), Fused({"q": 2, "k": 2}, 2), r"= 4, 2 times"),
        (8, View(heads=3), None, "its 8 neurons do not divide into heads=3"),
        (
            8,
            View(heads=3),
            Fused({"q": 4, "k": 4}),
            "its 4 neurons of q do not divide into heads=3",
        ),
        (6, View(heads=2), Fused({"q": 4, "k": 1, "v": 1}), "heads of 2 rows .* the 1 rows of k"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_numbers(
    rows: int, view: View, fused: Fused | None, message: str
) -> None:
    with pytest.raises(WatchError, match=message):
        cut((rows, 4), Stored(), view, fused=fused)
