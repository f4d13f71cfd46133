"""Damage to the values of JSON and YAML: other types, huge numbers, nesting, odd names."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from tests.fuzz.damage import damaged

RAW = {
    "@deep@": "[" * 5000 + "]" * 5000,
    "@deeper@": '{"a":' * 900 + "1" + "}" * 900,
    "@digits@": "9" * 5000,
    "@nan@": "NaN",
    "@infinite@": "-Infinity",
    "@large@": "1e999",
    "@surrogate@": '"\\ud800"',
    "@words@": "[" + ",".join(['"a"'] * 20000) + "]",
}
"""Texts that no value is written as; these take the place of their names."""

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 1.5, -0.0, 1e308, 1e-320, 2**31, 2**63, 2**64, 10**30),
    *("", " ", "a", "\x00", "\x1b[2J\n", "../../etc/passwd", "/dev/zero", "é" * 50, "x" * 100_000),
    *([], [[]], {}, {"": None}, [1, 2, 3], {"a": {"b": {"c": []}}}, [None] * 1000, "1e5", "-1"),
    *(1_000_000_000, 999_999_937, 10_000, 65_537, -(2**63), 7, "true", "2024-02-30", "0x_"),
    *RAW,
]

YAML_LINES = [
    "x: 2024-02-30",
    "x: !!int ''",
    "x: !!python/object/apply:os.system [ls]",
    "x: &a [*a]",
    "x: [&a [1,1,1,1,1,1,1,1], &b [*a,*a,*a,*a,*a,*a], &c [*b,*b,*b,*b,*b], [*c,*c,*c,*c,*c,*c]]",
    "<<: {a: 1}",
    "attention-config: " + "[" * 500 + "]" * 500,
    "? [1, 2]\n: 3",
    "x: !!binary a",
    "x: *nothing",
    "--- \nx: 1",
    "%YAML 9.9",
    "\tx: 1",
    "x: 1:59:59:59",
    'x: "\\UFFFFFFFF"',
    "x: |\n  " + "long " * 1000,
]


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container with each of its keys or indices."""
    items: Any = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield tree, key
        if isinstance(value, dict | list):
            yield from places(value)


def change(tree: Any, rng: random.Random) -> None:
    """Change a value, its key, or their number."""
    found = list(places(tree))
    if not found:
        return
    container, key = rng.choice(found)
    how = rng.randrange(10)
    value = container[key]
    if how < 3 and type(value) in (int, float):  # nearer to what it was
        container[key] = value * rng.choice([-1, 0, 0.5, 2, 3, 1000]) + rng.choice([0, 0, 1])
    elif how < 6:
        container[key] = copy.deepcopy(rng.choice(ODD))
    elif how == 6:
        del container[key]
    elif how == 7:
        other, place = rng.choice(found)
        container[key] = copy.deepcopy(other[place])
    elif isinstance(container, dict):
        container[rng.choice([str(key) + "x", "", "a" * 300, "\ud7ff", "__class__"])] = 1
    else:
        container.extend([copy.deepcopy(container[key])] * rng.choice([1, 100]))


def text_of(tree: Any) -> str:
    text = json.dumps(tree)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text


def json_like(tree: Any, rng: random.Random) -> bytes:
    """Write the tree with one to three changes; one in four is damaged as bytes as well."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 1, 2, 3])):
        change(tree, rng)
    content = text_of(tree).encode()
    return damaged(content, rng) if rng.random() < 0.25 else content


def yaml_like(tree: Any, rng: random.Random) -> bytes:
    """Write the tree as NeoX's YAML, or with lines of YAML that have a trick."""
    content = json_like(tree, rng)
    if rng.random() < 0.5:
        lines = [f"{json.dumps(key)}: {text_of(value)}" for key, value in tree.items()]
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(YAML_LINES))
        content = "\n".join(lines).encode()
    return damaged(content, rng) if rng.random() < 0.25 else content


Writer = Callable[[Any, random.Random], bytes]
