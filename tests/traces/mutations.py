"""Random changes of bytes, of JSON, and of Thrift's structs, by a seed."""

from __future__ import annotations

import random
from typing import Any

from tests.traces.crafting import Craft
from tests.traces.thrift import BINARY, LIST, STRUCT, Tree

_NUMBERS = (0, 1, -1, 2, 3, 5, 7, 8, 127, 255, 1 << 15, (1 << 31) - 1, -(1 << 31), 1 << 40, 1 << 62)
_VALUES: tuple[Any, ...] = (
    *_NUMBERS,
    None,
    True,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x" * 300,
    "\x1b[2J\ud800",
    "../../x",
    [],
    {},
    [[]],
    {"a": 1},
    "float64",
    "string",
    10**40,
)


def changed_bytes(dice: random.Random, data: bytes) -> bytes:
    """One to four small changes: a bit, a byte, a run of bytes that is lost, doubled or moved."""
    made = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        if not made:
            break
        at, size = dice.randrange(len(made)), dice.choice((1, 2, 4, 8, 64))
        how = dice.randrange(6)
        if how < 2:
            made[at] ^= 1 << dice.randrange(8)
        elif how == 2:
            made[at : at + 1] = bytes([dice.choice((0, 1, 127, 128, 255))])
        elif how == 3:
            made[at : at + 8] = dice.choice(_NUMBERS).to_bytes(8, "little", signed=True)
        elif how == 4:
            del made[at : at + size]
        else:
            made[at:at] = made[at : at + size]
    return bytes(made)


def changed_json(dice: random.Random, content: Any) -> Any:
    """One entry anywhere is another, is missing, or is new."""
    for _ in range(dice.randint(1, 3)):
        places = [*_places(content)]
        holder, key = dice.choice(places)
        how = dice.randrange(4)
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[dice.choice(("x", "step", "name", "shape"))] = dice.choice(_VALUES)
        elif how == 2 and isinstance(holder, list):
            holder.append(dice.choice((*_VALUES, holder[key])))
        else:
            holder[key] = dice.choice(_VALUES)
    return content


def change_segment(dice: random.Random, made: Craft) -> None:
    """One to three changes: the footer's structs, headers of pages, their bytes, or notes."""
    for _ in range(dice.randint(1, 3)):
        pages = [page for group in made.pages for column in group for page in column]
        page = dice.choice(pages)
        how = dice.randrange(8)
        if how < 2:
            _change_tree(dice, made.footer)
            made.fixed = dice.random() < 0.5
        elif how == 2:
            _change_tree(dice, made.groups()[0])
        elif how < 5:
            _change_tree(dice, page.header)
        elif how < 7:
            page.data = changed_bytes(dice, page.data)
        else:
            key = dice.choice([*made.notes])
            made.notes[key] = changed_bytes(dice, made.notes[key])


def _places(content: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    keys = content.keys() if isinstance(content, dict) else range(len(content))
    for key in [*keys]:
        found.append((content, key))
        if isinstance(content[key], (dict, list)) and content[key]:
            found += _places(content[key])
    return found


def _change_tree(dice: random.Random, tree: Tree) -> None:
    while True:
        number = dice.choice([*tree]) if tree else 1
        kind, value = tree.get(number, (5, 0))
        deeper = dice.random() < 0.8
        if kind == STRUCT and deeper and value:
            tree = value
        elif kind == LIST and deeper and value[0] == STRUCT and value[1]:
            tree = dice.choice(value[1])
        else:
            break
    how = dice.randrange(6)
    if how == 0:
        tree.pop(number, None)
    elif how == 1:
        tree[dice.randint(1, 14)] = (dice.choice((4, 5, 6)), dice.choice(_NUMBERS))
    elif kind in (4, 5, 6):
        new = dice.choice((*_NUMBERS, value + 1, value - 1, value * 2))
        tree[number] = (kind, new)
    elif kind == BINARY:
        tree[number] = (kind, changed_bytes(dice, value))
    elif kind == LIST:
        inner, items = value
        tree[number] = (kind, (inner, dice.choice((items[:-1], items * 2, items[::-1], []))))
