"""What a background thread costs the training step while it only waits.

Prints medians of a small transformer's step (forward, backward, AdamW) in three states, interleaved
in one process: nobody else; a thread waiting that has run OpenMP regions with a team of its own; a
thread waiting that held itself to one core, as the capture's does. Ratios are to the first state.

Run as ``python benchmarks/background_thread.py``.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import torch
from timing import Number, json_option, write_json

from optgeom.geometry.threads import use_one_thread
from optgeom.trainer.demo import demo_config
from optgeom.trainer.model import build_model, cross_entropy

ROUNDS = 12
STEPS = 10
STATES = ("alone", "team", "one core")


@contextmanager
def waiting(state: str) -> Iterator[None]:
    """Keep a thread alive that has multiplied matrices and now waits."""
    ready, end = threading.Event(), threading.Event()

    def work() -> None:
        if state == "one core":
            use_one_thread()
        x = torch.randn(512, 512)
        torch.linalg.eigvalsh(x @ x.T)
        ready.set()
        end.wait()

    if state == "alone":
        yield
        return
    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    yield
    end.set()
    thread.join()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of all states (%(default)s)")
    json_option(parser)
    given = parser.parse_args()
    torch.set_flush_denormal(True)
    config = demo_config("adamw")
    model = build_model(config.model, length=config.data.sequence, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.randint(0, 256, (config.data.batch, config.data.sequence + 1))
    took: dict[str, list[float]] = {state: [] for state in STATES}
    for _ in range(given.rounds):
        for state in STATES:
            with waiting(state):
                for _ in range(STEPS):
                    began = time.perf_counter()
                    loss = cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    optimizer.zero_grad()
                    took[state].append(time.perf_counter() - began)
    print(
        f"{datetime.now(UTC).date()}, torch {torch.__version__}, {platform.machine()}, "
        f"{torch.get_num_threads()} threads, {given.rounds * STEPS} steps each"
    )
    rows = []
    base = statistics.median(took["alone"])
    for state, values in took.items():
        median = statistics.median(values)
        print(f"{state:10} {1e3 * median:7.1f} ms   {median / base:.2f}")
        rows.append(
            {
                "state": state,
                "ms": Number(1e3 * median, ".1f"),
                "of the first": Number(median / base, ".2f"),
            }
        )
    write_json(given.json, {"states": rows})


if __name__ == "__main__":
    main()
