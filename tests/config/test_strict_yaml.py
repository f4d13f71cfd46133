"""Hostile YAML is refused at once, with its line, in files and on the command line."""

import pathlib
import time

import pytest

from jaxneox.config import apply_set, load_yaml
from jaxneox.config.strict_yaml import BY_ALIASES, DEEPEST, LONGEST, BrokenYaml, parse
from jaxneox.errors import UserError

TEN = "[{}]".format(",".join(["1"] * 10))


def doubled(levels: int, begin: str = TEN, more: str = "[{}]") -> str:
    """A list of ten, of which the next one is ten, and so on."""
    lists = [f"a0: &a0 {begin}"]
    for k in range(1, levels):
        lists.append(f"a{k}: &a{k} {more.format(','.join([f'*a{k - 1}'] * 10))}")
    return "\n".join(lists)


def in_each_other(depth: int, inside: str = "") -> str:
    return "[" * depth + inside + "]" * depth


HOSTILE = {
    "aliases": (doubled(12), "aliases that come to"),
    "merges": (doubled(12, "{b: 1}", "{{<<: [{}]}}"), "aliases that come to"),
    "mappings of aliases": (doubled(12, more="{{a: [{}]}}"), "aliases that come to"),
    "a list in itself": ("a: &a [*a]", "stands inside"),
    "a merge of itself": ("a: &a {<<: *a}", "stands inside"),
    "a mapping as a key": ("? {a: 1}\n: 2", "unhashable"),
    "deep": (f"a: {in_each_other(3000)}", "in each other"),
    "deep mappings": ("a: " + "{a: " * 3000, "in each other"),
    "deep blocks": ("- " * 3000, "in each other"),
    "deep by aliases": (
        "\n".join(f"a{k}: &a{k} {in_each_other(20, f'*a{k - 1}' if k else '')}" for k in range(40)),
        "in each other",
    ),
    "a day that is none": ("a: 2024-02-30", "'2024-02-30' is no timestamp"),
    "a month that is none": ("\na: 2024-13-01", "'2024-13-01' is no timestamp"),
    "a time that is none": ("a: 2024-01-01 25:61:61", "is no timestamp"),
    "an empty hexadecimal": ("a: 0x_", "'0x_' is no int"),
    "no number": ('a: !!int ""', "'' is no int"),
    "no float": ("a: !!float abc", "'abc' is no float"),
    "no truth": ("a: !!bool abc", "'abc' is no bool"),
    "no time": ("a: !!timestamp abc", "is no timestamp"),
    "a list that is a number": ("a: !!int [1]", "expected a scalar"),
    "many digits": (f"a: {'9' * 5000}", "a number of 5000 digits"),
    "many hexadecimal digits": (f"a: 0x{'f' * 5000}", "a number of 5002 digits"),
    "many digits of a float": (f"a: 1.{'0' * 5000}", "a number of 5002 digits"),
    "base 60": (f"a: 1{':59' * 3000}", "digits"),
    "a digit as a key": (f"? {'9' * 5000}\n: 1", "a number of 5000 digits"),
    "no character": ('a: "\\UFFFFFFFF"', "a character that is none"),
    "half a character": ('a: "\\ud800"', "surrogate"),
    "a null character": ('save: "a\\0b"', "null character"),
    "half a character in a key": ('"\\udc00": 1', "surrogate"),
    "a null byte": ("b: 1\na: \0", "is not allowed"),
    "binary": ("a: !!binary a", "decode"),
    "an object": ("a: !!python/object/apply:os.system [ls]", "could not determine"),
    "two documents": ("a: 1\n---\na: 2", "found another document"),
    "long": ("#" * (LONGEST + 1), "longer than"),
    "an unknown alias": ("a: *b", "undefined alias"),
    "pairs": ("a: !!pairs [1]", "expected a mapping"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_one_line_at_once(tmp_path: pathlib.Path, name: str) -> None:
    text, reason = HOSTILE[name]
    path = tmp_path / "a.yml"
    path.write_text(text)
    began = time.thread_time()
    with pytest.raises(UserError) as raised:
        load_yaml([path])
    line = str(raised.value)
    assert line.startswith(f"{path}:") and reason in line and "\n" not in line
    assert len(line) < 400 + len(str(path))
    value = text.strip().removeprefix("a: ")
    with pytest.raises(UserError) as raised:
        apply_set({}, [f"save={value if value != text else text}"])
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400
    assert time.thread_time() - began < 3


def test_lines_are_those_of_the_value() -> None:
    with pytest.raises(BrokenYaml) as raised:
        parse("b: 1\n\nc:\n  - a: 2024-02-30")
    assert raised.value.line == 4


def test_ordinary_aliases_and_merges_are_read() -> None:
    text = "base: &b {lr: 1, eps: 2}\nmore: {<<: *b, lr: 3}\nlist: [*b, *b]"
    base = {"lr": 1, "eps": 2}
    assert parse(text)[0] == {"base": base, "more": {"lr": 3, "eps": 2}, "list": [base, base]}
    wide = f"a: &a {TEN}\nb: [{','.join(['*a'] * (BY_ALIASES // 11))}]"
    assert len(parse(wide)[0]["b"]) == BY_ALIASES // 11
    assert parse(in_each_other(DEEPEST))[0]


def test_only_so_many_forgotten_commas_are_supplied(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.yml"
    path.write_text("{\n" + "\n".join(f'"a{k}": 1' for k in range(2000)) + "\n}")
    began = time.thread_time()
    with pytest.raises(UserError, match="not YAML"):
        load_yaml([path])
    assert time.thread_time() - began < 60
