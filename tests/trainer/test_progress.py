"""The bar: shows what the loop tells, and leaves the terminal as it was."""

from __future__ import annotations

import io

from rich.console import Console

from optgeom.trainer import ProgressBar, train


def test_a_run_draws_one_bar_to_its_end(tiny) -> None:
    drawn = io.StringIO()
    console = Console(file=drawn, width=100, force_terminal=True)
    with ProgressBar(console) as bar:
        result = train(tiny(), run="mine", listener=bar)
    text = drawn.getvalue()
    assert "mine" in text
    assert "5/5" in text
    assert f"held-out loss {result.eval_loss:.3f}" in text
    assert text.endswith("\x1b[?25h")
