"""Reading and merging YAML: one spelling, no duplicates, one line for what is broken."""

import json
import logging
import pathlib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jaxneox.config import load_yaml
from jaxneox.config.merge import parse_value
from jaxneox.config.strict_yaml import parse
from jaxneox.errors import UserError


def write(folder: pathlib.Path, text: str, name: str = "a.yml") -> pathlib.Path:
    path = folder / name
    path.write_text(text)
    return path


def refusal(*paths: pathlib.Path) -> str:
    with pytest.raises(UserError) as raised:
        load_yaml(paths)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_neox_style(tmp_path: pathlib.Path) -> None:
    text = """# a comment
{
\t"hidden-size": 64, # another
\t"fp16": {"enabled": True, "min-loss-scale": 1, },
   "save": None,
   "train-data-paths": ["a-b", "c"],
}
"""
    assert load_yaml([write(tmp_path, text)]) == {
        "hidden_size": 64,
        "fp16": {"enabled": True, "min_loss_scale": 1},
        "save": None,
        "train_data_paths": ["a-b", "c"],
    }


def test_json_with_tabs_and_plain_yaml_say_the_same(tmp_path: pathlib.Path) -> None:
    keys = {"hidden_size": 64, "optimizer": {"type": "Adam", "params": {"lr": 0.5}}}
    first = write(tmp_path, json.dumps(keys, indent="\t").replace(": ", ":\t"), "a.json")
    second = write(tmp_path, yaml.safe_dump(keys).replace("hidden_size", "hidden-size"), "b.yml")
    assert load_yaml([first]) == load_yaml([second]) == keys


def test_a_path_without_its_suffix(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "a: 1", "1-4B.yml")
    assert load_yaml([tmp_path / "1-4B"]) == {"a": 1}
    write(tmp_path, "a: 2", "1.4B.yml")
    assert load_yaml([tmp_path / "1.4B"]) == {"a": 2}


def test_a_duplicate_in_one_file_names_both_lines(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, "hidden-size: 1\nlr: 2\nhidden_size: 3\n")
    line = refusal(path)
    assert line == f"{path}:3: hidden_size is set twice, on lines 1 and 3: keep one of the two"
    nested = write(tmp_path, "fp16:\n  enabled: true\n  enabled: true\n")
    assert "enabled is set twice, on lines 2 and 3" in refusal(nested)


def test_a_duplicate_across_files_names_both_places(tmp_path: pathlib.Path) -> None:
    first = write(tmp_path, "x: 1\nhidden-size: 1\n")
    second = write(tmp_path, "hidden_size: 1\n", "b.yml")
    line = refusal(first, second)
    assert line == f"{second}:1: hidden_size was already set at {first}:2: keep one of the two"


def test_what_is_broken(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, '{\n"a": 1,\n"b": ]\n}')
    assert refusal(path).startswith(f"{path}:3: not YAML: ")
    assert "expected keys with values, found list" in refusal(write(tmp_path, "[1, 2]"))
    assert "there is no such file" in refusal(tmp_path / "absent.yml")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "bytes.yml").write_bytes(b"\xff\xfe\x00")
    assert "not text in UTF-8" in refusal(tmp_path / "bytes.yml")
    assert load_yaml([write(tmp_path, "# nothing\n")]) == {}


def test_a_forgotten_comma_at_the_end_of_a_line(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, '{\n"a": [[1]]\n"b-c": 2,\n"d": "e"\n"f": 1}')
    with caplog.at_level(logging.WARNING):
        assert load_yaml([path]) == {"a": [[1]], "b_c": 2, "d": "e", "f": 1}
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}:{line}: a comma is missing before this line" for line in (3, 5)
    ]
    assert "not YAML" in refusal(write(tmp_path, '{"a": [1] "b": 2}'))


names = st.from_regex(r"[a-z]([-_]?[a-z0-9]){0,8}", fullmatch=True)
values = st.none() | st.booleans() | st.integers() | st.text("abc xyz", max_size=5)


@given(st.dictionaries(names, values | st.lists(values, max_size=3), max_size=8))
def test_any_keys_survive_in_either_spelling_or_are_called_duplicates(keys: dict[str, Any]) -> None:
    text = yaml.safe_dump(keys, default_flow_style=True)
    spelled = {name.replace("-", "_"): value for name, value in keys.items()}
    if len(spelled) == len(keys):
        assert parse(text)[0] == spelled
        assert parse_value(json.dumps(keys)) == spelled
    else:
        with pytest.raises(UserError, match="twice"):
            parse_value(text)
