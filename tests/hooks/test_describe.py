"""What `describe` prints: a line per parameter, and the expected size of the trace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from optgeom.hooks import View
from optgeom.hooks.clock import Clocks
from optgeom.hooks.describe import Description, describe
from optgeom.hooks.layers import select


class MyExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.zeros(128, 64, 16))
        self.down_proj = nn.Parameter(torch.zeros(128, 16, 32))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 16)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(16, 32)})
        self.experts = MyExperts()
        self.head = nn.Linear(16, 100, bias=False)
        self.head.weight = self.embed.weight


VIEWS = {"attention.qkv": View(split={"q": 16, "k": 8, "v": 8}), "mlp.down": View(whole=True)}


def described(layers: object = None, every: int = 50) -> Description:
    model = Block()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    captured, decisions = select(model, [optimizer], layers, VIEWS)  # type: ignore[arg-type]
    return describe(decisions, captured, Clocks.of(every, None, None, 1), 1)


TABLE = """\
parameter                    stored             captured as  what it is, or why not
embed                     (100, 16)                       -  embeddings are off by default: name it in layers=; tied to head
attn.qkv                   (32, 16)  (16, 16) + 2 x (8, 16)  attention.qkv; cut into q, k, v
attn.qkv.bias                  (32)                       -  not a matrix
experts.gate_up_proj  (128, 64, 16)          128 x (64, 16)  mlp.gate_up; by expert
experts.down_proj     (128, 16, 32)              (128, 512)  mlp.down; flattened

captured: 132 matrices of 3 parameters: 1 attention.q, 1 attention.k, 1 attention.v, 128 mlp.gate_up, 1 mlp.down
left out: 2 parameters: 1 x embeddings are off by default: name it in layers=; 1 x not a matrix
"""  # noqa: E501


def test_a_line_per_parameter_in_straight_columns_and_a_summary() -> None:
    table, size = str(described()).rsplit("\n", 1)
    assert table + "\n" == TABLE
    assert size.startswith("about ")
    assert size.endswith(" MB per 1000 steps")


def test_pieces_that_are_not_wanted_are_counted() -> None:
    line = str(described(r"experts\.gate_up_proj\[[0-4]\]|down")).splitlines()[4]
    assert line.endswith(
        "5 x (64, 16)  mlp.gate_up; by expert; the other 123 are not named in layers="
    )


def test_a_notebook_shows_the_table() -> None:
    assert repr(described()) == str(described())


def test_the_expected_size_follows_the_clocks_of_each_layer() -> None:
    model = nn.Sequential(nn.Linear(8, 4, bias=False), nn.Linear(4, 6, bias=False))
    captured, decisions = select(model, [torch.optim.SGD(model.parameters(), lr=0.1)])
    often, rarely = Clocks.of(10, 10, 0, 1), Clocks.of(100, 100, 100, 1)
    one = describe(decisions, captured[:1], often, 1).megabytes_per_1000_steps
    other = describe(decisions, captured[1:], rarely, 1).megabytes_per_1000_steps
    both = describe(decisions, captured, [often, rarely], 2).megabytes_per_1000_steps
    # by hand: rows of norms and singular values of 4 bytes, 80 bytes a row, 4 bytes an entry
    assert one == pytest.approx(100 * (4 * 4 + 80 + 4 * 4 + 80) / 1e6)
    assert other == pytest.approx(10 * (6 * 4 + 80 + 4 * 4 + 80 + 24 * 4) / 1e6)
    assert both == pytest.approx(2 * (one + other))


def test_the_page_shows_what_is_printed(tmp_path, monkeypatch, capsys) -> None:
    page = (Path(__file__).parents[2] / "docs" / "layers.md").read_text()
    code, printed = re.search(r"```python\n(.*?)```\n```text\n(.*?)```", page, re.DOTALL).groups()
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out == printed
