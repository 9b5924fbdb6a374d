"""Being told how a run goes: a protocol for callers, a bar for terminals.

The training loop calls three methods and imports no terminal library; whoever shows a run
elsewhere (a log, a notebook, a page) implements the same three.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Listener(Protocol):
    """What the training loop tells."""

    def began(self, run: str, *, steps: int, parameters: int) -> None:
        """A run starts.

        Args:
            run: Its name.
            steps: How many it will take.
            parameters: Weights of the model.
        """

    def stepped(self, step: int, *, loss: float, seconds: float, tokens: int) -> None:
        """A step is done.

        Args:
            step: From 0.
            loss: Of the step's batch, in nats per token.
            seconds: What the step took, capture included.
            tokens: Of the step, over all ranks.
        """

    def ended(self, run: str, *, eval_loss: float, seconds: float) -> None:
        """A run is done.

        Args:
            run: Its name.
            eval_loss: On held-out text, in nats per token.
            seconds: From the first step to the last evaluation.
        """


class Silent:
    """A listener that keeps to itself."""

    def began(self, run: str, *, steps: int, parameters: int) -> None:
        """Nothing."""

    def stepped(self, step: int, *, loss: float, seconds: float, tokens: int) -> None:
        """Nothing."""

    def ended(self, run: str, *, eval_loss: float, seconds: float) -> None:
        """Nothing."""


class ProgressBar:
    """One bar per run on a terminal; a context manager.

    Args:
        console: Where to draw; None takes rich's default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def began(self, run: str, *, steps: int, parameters: int) -> None:
        """Add a bar."""
        note = f"{parameters / 1e6:.2f} M weights"
        self._task = self._progress.add_task(run, total=steps, note=note)

    def stepped(self, step: int, *, loss: float, seconds: float, tokens: int) -> None:
        """Move the bar."""
        if self._task is not None:
            note = f"loss {loss:.3f}  {seconds * 1e3:.0f} ms  {tokens / seconds / 1e3:.1f} k tok/s"
            self._progress.update(self._task, completed=step + 1, note=note)

    def ended(self, run: str, *, eval_loss: float, seconds: float) -> None:
        """Leave the bar as it is, with the held-out loss beside it."""
        if self._task is not None:
            self._progress.update(self._task, note=f"held-out loss {eval_loss:.3f}")
