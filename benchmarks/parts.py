"""What `make bench` runs: which script, with which settings, for how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One script and its settings.

    Attributes:
        script: in the folder of this file.
        full: its arguments; FOLDER is a folder of its own, made before and removed after, and BIG
            the dashboard's, which is kept.
        quick: its arguments at a size that shows only that it works.
        minutes: about how long it takes on two idle cores.
        peers: whether it needs the environments of the peers.
        python: whose interpreter runs it, "peers" or this one.
        needs: what has to be there, else it runs only when it is named; usually nothing.
    """

    script: str
    full: tuple[str, ...]
    quick: tuple[str, ...]
    minutes: float
    peers: bool = False
    python: str = ""
    needs: str = ""

    def limit(self, *, quick: bool) -> float:
        """Seconds after which it is ended: three times as long and two minutes; tiny sizes, ten."""
        return 600.0 if quick else 60 * (3 * self.minutes + 2)


BIG_RUNS = "the folder runs/big"
FAST_BFLOAT16 = "a processor that multiplies bfloat16: torch's Muon iterates in nothing else"


def _words(text: str, *more: str) -> tuple[str, ...]:
    return (*text.split(), *more)


_ANALYSIS = ("--tables", "Over the bare LAPACK calls", "Beside others")
_SMALL = "--job tiny --pairs 2 --sessions 1"
_NORMS = ("--methods", "optgeom: norms and CV")
_FOREACH = ("--optimizers", "AdamW, foreach", "--methods")
_OURS = ("--optimizers", "adamw", "adamw-foreach", "normuon")
_DEFAULTS = ("--settings", "the defaults")

PARTS: Mapping[str, Part] = {
    "steps": Part(
        "overhead.py",
        _words("--tables steps --pairs 40 --sessions 5", *_NORMS, *_OURS),
        _words(f"--tables steps {_SMALL} --optimizers adamw", *_NORMS),
        6,
    ),
    "muon": Part(
        "overhead.py",
        _words("--tables steps --pairs 40 --sessions 5 --optimizers muon", *_NORMS),
        _words(f"--tables steps {_SMALL} --optimizers muon", *_NORMS),
        2,
        needs=FAST_BFLOAT16,
    ),
    "instruments": Part(
        "overhead.py",
        _words("--tables steps peers --optimizers adamw --pairs 20 --sessions 5"),
        _words(f"--tables steps peers --optimizers adamw {_SMALL}"),
        11,
        peers=True,
    ),
    "run": Part(
        "overhead.py",
        _words("--tables runs --optimizers adamw --blocks 7", *_DEFAULTS),
        _words("--tables runs --optimizers adamw --job tiny --blocks 2", *_DEFAULTS),
        4,
    ),
    "memory": Part(
        "memory.py",
        _words("--millions 10 100", *_FOREACH, "norms", "norms, spectra", "snapshot"),
        _words("--millions 1 --side 256", *_FOREACH, "norms", "snapshot"),
        3,
    ),
    "writer": Part(
        "writer.py",
        _words("FOLDER --captures 60"),
        _words("FOLDER --rounds 1 --captures 1 --steps 1 --scalars 4000"),
        3,
        peers=True,
        python="peers",
    ),
    "analysis": Part(
        "analysis.py",
        _words("FOLDER --blocks 2 --rounds 3", *_ANALYSIS),
        _words("FOLDER --preset demo --blocks 1 --rounds 1", *_ANALYSIS),
        3,
        peers=True,
    ),
    "optimizers": Part(
        "sharded.py",
        _words("--ranks 1 2 --rounds 5"),
        _words("--ranks 1 2 --rounds 1 --shapes demo"),
        7,
    ),
    "sharded": Part("peers_sharded.py", (), (), 1, peers=True, python="peers"),
    "kernels": Part("norms.py", (), _words("--rounds 1 --spectrum-rounds 1"), 0.5),
    "background": Part("background_thread.py", (), _words("--rounds 1"), 0.3),
    "dashboard": Part(
        "dashboard.py",
        _words("BIG --interactions 300 --loads 5"),
        _words("BIG --interactions 20 --loads 1"),
        5,
        needs=BIG_RUNS,
    ),
}
"""By name, in the order in which they run."""
