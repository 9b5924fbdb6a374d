"""The runs in their order: AdamW's search, the other rules', then every rule at every seed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.study.arms import ARMS
from benchmarks.study.search import TRIALS, best_rate, next_rates
from benchmarks.study.trials import Outcome, Trial, run

SEEDS = (0, 1, 2, 3, 4)
"""Of the runs that are compared."""

SEARCH_SEED = 100
"""Of the runs that find the learning rates: no run that is compared shares it."""

Tell = Callable[[str], None]
Follow = Callable[[Outcome], Iterable[Trial]]


@dataclass(frozen=True, kw_only=True)
class Runs:
    """All that was run.

    Attributes:
        searches: From rule to the outcomes of its search, by learning rate.
        finals: From rule to its outcomes, in the order of the seeds.
    """

    searches: Mapping[str, tuple[Outcome, ...]]
    finals: Mapping[str, tuple[Outcome, ...]]

    def rate(self, arm: str) -> float:
        """The learning rate that a rule was compared at."""
        return best_rate({one.trial.lr: one.loss for one in self.searches[arm]})


def experiment(folder: Path, executor: Executor, *, tell: Tell = print) -> Runs:
    """Run the study, or what is left of it.

    Args:
        folder: Where its runs are kept.
        executor: Runs ``trials.run``, several side by side.
        tell: Told of every run that ends.
    """
    begun = _Begun(folder, executor, tell)
    searches: dict[str, dict[float, Outcome]] = {name: {} for name in ARMS}
    asked = Counter[str]()

    def search(name: str, adamw_lr: float) -> list[Trial]:
        losses = {lr: one.loss for lr, one in searches[name].items()}
        rates = next_rates(ARMS[name].first_lr, losses)
        asked[name] += len(rates)
        return [
            Trial(arm=name, lr=lr, adamw_lr=adamw_lr, seed=SEARCH_SEED, watched=False)
            for lr in rates
        ]

    def follow(outcome: Outcome) -> list[Trial]:
        trial = outcome.trial
        searches[trial.arm][trial.lr] = outcome
        # what comes next depends on all that was asked for, not on which ended first
        done = len(searches[trial.arm]) == asked[trial.arm]
        return search(trial.arm, trial.adamw_lr) if done else []

    # AdamW's rate moves the embedding, the head and the norms of all others
    begun.run(search("adamw", ARMS["adamw"].first_lr), follow)
    adamw_lr = _best(searches["adamw"])
    others = [trial for name in ARMS if name != "adamw" for trial in search(name, adamw_lr)]
    begun.run(others, follow)

    finals: dict[str, dict[int, Outcome]] = {name: {} for name in ARMS}
    rates = {name: _best(found) for name, found in searches.items()}

    def keep(outcome: Outcome) -> tuple[Trial, ...]:
        finals[outcome.trial.arm][outcome.trial.seed] = outcome
        return ()

    begun.run(
        [
            Trial(arm=name, lr=rates[name], adamw_lr=adamw_lr, seed=seed, watched=True)
            for seed in SEEDS
            for name in ARMS
        ],
        keep,
    )
    return Runs(
        searches={
            name: tuple(found[lr] for lr in sorted(found)) for name, found in searches.items()
        },
        finals={name: tuple(found[seed] for seed in SEEDS) for name, found in finals.items()},
    )


def _best(found: Mapping[float, Outcome]) -> float:
    return best_rate({lr: one.loss for lr, one in found.items()})


class _Begun:
    """The runs side by side, and how far they are."""

    def __init__(self, folder: Path, executor: Executor, tell: Tell) -> None:
        self._run = partial(run, folder=folder)
        self._executor = executor
        self._tell = tell
        self._began = time.perf_counter()
        self._done = 0

    def run(self, trials: Iterable[Trial], follow: Follow) -> None:
        """Run trials, and those that follow from them, until there are none."""
        waiting: set[Future[Outcome]] = set()

        def ask(some: Iterable[Trial]) -> None:
            waiting.update(self._executor.submit(self._run, trial) for trial in some)

        ask(trials)
        while waiting:
            ended, _ = wait(waiting, return_when=FIRST_COMPLETED)
            waiting -= ended
            for one in ended:
                outcome = one.result()
                self._done += 1
                self._tell(self._said(outcome))
                ask(follow(outcome))

    def _said(self, outcome: Outcome) -> str:
        whole = len(ARMS) * (TRIALS + len(SEEDS))
        trial = outcome.trial
        what = f"seed {trial.seed}" if trial.watched else f"lr {trial.lr:.4g}"
        minutes = (time.perf_counter() - self._began) / 60
        return (
            f"[{self._done:2d} of about {whole}, {minutes:4.1f} min] {trial.arm:18s} {what:10s} "
            f"held-out loss {outcome.loss:.4f} ({outcome.seconds:.0f} s)"
        )
