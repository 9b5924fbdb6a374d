from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from optgeom.dashboard.sentence import Side, sentence
from optgeom.figures.names import TIMES

LAYER = "mlp.up of block 3"


def _text(a: float | None, b: float | None, **rest: object) -> str:
    said = sentence(Side("Muon", a), Side("NorMuon", b), layer=LAYER, step=400, **rest)  # type: ignore[arg-type]
    return said.text.replace("\N{NO-BREAK SPACE}", " ")


def test_more_evenly() -> None:
    assert _text(0.43, 0.083) == (
        "At step 400 NorMuon spreads mlp.up of block 3 over its neurons "
        f"5.2{TIMES}more evenly than Muon (CV 0.083 against 0.43)."
    )


def test_the_opposite_when_that_is_so() -> None:
    assert f"5.2{TIMES}less evenly than Muon (CV 0.43 against 0.083)" in _text(0.083, 0.43)


def test_no_clear_difference_within_ten_percent() -> None:
    assert _text(0.43, 0.40) == (
        "At step 400 there is no clear difference in how evenly NorMuon and Muon spread "
        "mlp.up of block 3 over its neurons (CV 0.4 against 0.43)."
    )


def test_not_captured_names_the_run() -> None:
    assert _text(None, 0.1) == "Mlp.up of block 3 was not captured at step 400 in Muon."
    assert _text(None, None).endswith("in NorMuon or Muon.")


def test_one_run_alone() -> None:
    said = sentence(Side("Muon", 0.43), None, layer=LAYER, step=1240)
    assert said.text.replace("\N{NO-BREAK SPACE}", " ") == (
        "At step 1,240 Muon spreads mlp.up of block 3 over its neurons with a CV of 0.43."
    )


def test_other_stages_are_named() -> None:
    assert "spreads the momentum of mlp.up" in _text(0.4, 0.1, stage="momentum")


def test_perfectly_even_has_no_ratio() -> None:
    assert "over its neurons more evenly than Muon (CV 0 against 0.4)" in _text(0.4, 0.0)
    assert "no clear difference" in _text(0.0, 0.0)


CV = st.floats(1e-6, 1e3)


@given(CV, CV)
def test_the_sentence_agrees_with_the_numbers(a: float, b: float) -> None:
    said = sentence(Side("A", a), Side("B", b), layer=LAYER, step=1)
    swapped = sentence(Side("B", b), Side("A", a), layer=LAYER, step=1)
    if max(a, b) / min(a, b) <= 1.1:
        assert said.variant == swapped.variant == "same"
    else:
        assert said.variant == ("more" if b < a else "less")
        assert swapped.variant == ("less" if b < a else "more")
