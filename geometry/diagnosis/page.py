"""The rules as a page: docs/diagnose.md is what `diagnose_page` returns."""

from __future__ import annotations

import re

from optgeom.geometry.diagnosis.registry import RULES
from optgeom.geometry.diagnosis.rule import Rule
from optgeom.geometry.diagnosis.thresholds import THRESHOLDS
from optgeom.geometry.diagnosis.uses import thresholds_of

_INTRODUCTION = """\
# Diagnose

What a run's records say is wrong with its optimizer: each finding with its severity, the layers,
steps and values that show it, the likely cause, and what to try.

```
optgeom diagnose runs/a                    a trace, or a folder of traces
optgeom diagnose runs --run a --steps 1000: --json
```
```python
found = optgeom.diagnose(optgeom.open_trace("runs/a"))
found.findings  # the worst first: rule, severity, title, layers, steps, evidence, cause, advice
found.not_judged  # from the names of rules that could not look to why
```

- **severe**: the optimizer is not the one that was meant, or the weights hardly move. **warning**:
  look at it. **note**: worth knowing; nothing need be wrong.
- Exit code 1 where anything severe or worth a warning was found, or a run could not be read; notes
  alone are 0. Wrong use is 2.
- A rule that could not look says why, and never counts as a good sign: without spectra, nothing is
  said of orthogonality. Rows that could not be verified (`unverified`, `lost`) count for nothing.
- Columns are read; where they leave it open, a layer's spectra at 16 captures and its neuron norms
  at 32, spread evenly; and raw matrices of a few sharded layers. No torch is imported.

The ordinary settings of `watch` (`every=50`, `stages=("update",)`) are enough for all rules but
these: whether unevenness is leverage or error needs `ns_input` or `orthogonalized` among the
stages; whether NorMuon's Newton-Schulz has converged needs `orthogonalized`; whether one has whose
settings do not say how many steps it takes needs `ns_input` or `momentum`; in which stage NaN comes
first needs `gradient` and `momentum`; NorMuon orthogonalized per shard needs raw matrices
(`updates_every`, on by default).

An optimizer is taken at its word. A layer is expected to be orthogonalized where its group says
`algorithm="muon"` or `"normuon"`, or else its class is named so (`Muon`, `NorMuon`,
`SingleDeviceMuon`, `torch.optim.Muon`, ...); not where the group says `use_muon=False`, has `betas`
and nothing of Muon's, or the class is an AdaMuon, whose update is not meant to be orthogonal.

**Band share**, by which most rules about orthogonality decide, is the share of the singular values
above a tenth of the largest that are above 0.4 of it. An orthogonalized matrix has nearly all of
them there, whatever its scale. Its condition number cannot tell: gradients of few tokens lack rank,
and no iteration lifts what is not there. Where `ns_input` or `momentum` was captured, the share is
that of the directions which an iteration can lift (`reach`), and no others.

Of a [computed trace](whatif.md) the update is judged as of any other. What only a step that was
taken can show is not judged there: overwritten gradients, ranks, and repetition, for the momentum
is that of the run which it was computed from.
"""


def diagnose_page() -> str:
    """The page, in Markdown.

    Returns:
        Text of docs/diagnose.md, with a final newline.
    """
    parts = [_INTRODUCTION, "## Rules\n", *map(_rule, RULES), _thresholds()]
    return "\n".join(parts)


def _rule(rule: Rule) -> str:
    lines = [
        f"### `{rule.name}`",
        "",
        f"{rule.title}. {rule.severity}.",
        "",
        f"- Looks at: {rule.looks_at}",
        f"- Means: {rule.means}",
        f"- Cause: {rule.cause}",
        f"- Try: {rule.advice}",
    ]
    used = [f"`{one.name}`" for one in thresholds_of(rule)]
    if used:
        lines.append(f"- Thresholds: {', '.join(used)}")
    return "\n".join(lines) + "\n"


def _linked(text: str) -> str:
    """Pages that are named by their file, as links: the others lie beside this one."""
    return re.sub(r"docs/([\w-]+)\.md", r"[\1](\1.md)", text)


def _thresholds() -> str:
    lines = [
        "## Thresholds",
        "",
        "Which rules use one is read from their code: a rule is listed with all that it rests on,",
        "also with that of the rules whose findings it leaves out.",
        "",
        "Generated, as all of this page, from `optgeom.geometry.diagnosis`; change it there. The",
        "demo's runs are those of `optgeom demo`: 41 captures of 24 hidden matrices under AdamW,",
        "Muon and NorMuon.",
        "",
        "| name | value | unit | what is compared with it | source |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{one.name}` | {one.value:g} | {one.unit} | {one.meaning} | {_linked(one.source)} |"
        for one in THRESHOLDS
    ]
    return "\n".join(lines) + "\n"
