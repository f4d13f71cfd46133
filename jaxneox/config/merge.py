"""Read NeoX's YAML files strictly, and merge them into one dictionary of keys with `_`.

NeoX reads YAML 1.1, mostly written like JSON with trailing commas, comments and Python's `True`.
"""

import logging
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import yaml

from jaxneox.config.shipped import find_config
from jaxneox.errors import UserError

log = logging.getLogger(__name__)

_MERGE = "tag:yaml.org,2002:merge"
_NULL = "tag:yaml.org,2002:null"


def spelled(name: Any) -> str:
    """Return the one spelling of a key: `hidden-size` and `hidden_size` are the same key."""
    return str(name).strip().replace("-", "_")


class _Loader(yaml.SafeLoader):
    """A loader of safe YAML whose mappings have one spelling of each key and no duplicates."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self._refuse_duplicates(node)
        mapping = super().construct_mapping(node, deep=deep)
        return {spelled(name): value for name, value in mapping.items()}

    def _refuse_duplicates(self, node: yaml.MappingNode) -> None:
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            name = spelled(key.value)
            if name in seen:
                raise _Duplicate(name, seen[name], key)
            seen[name] = key


_Loader.add_implicit_resolver(_NULL, re.compile(r"^None$"), ["N"])
_Loader.add_constructor(_NULL, lambda loader, node: None)


class _Duplicate(Exception):
    def __init__(self, name: str, first: yaml.Node, second: yaml.Node) -> None:
        super().__init__(name)
        self.name = name
        self.nodes = (first, second)


def load_yaml(paths: Sequence[str | pathlib.Path]) -> dict[str, Any]:
    """Read and merge YAML files.

    Args:
        paths: files, with or without their `.yml`, or names of shipped ones.

    Returns:
        The keys, spelled with `_` at every depth.

    Raises:
        UserError: a file is missing or broken, or a key is given twice, in either spelling, in one
            file or in two. The message names the file and the line.
    """
    merged: dict[str, Any] = {}
    first_lines: dict[str, str] = {}
    for given in paths:
        path = find_config(given)
        keys, lines = _read(path)
        for name, value in keys.items():
            line = f"{path}:{lines.get(name, 1)}"
            if name in merged:
                raise UserError(
                    f"{line}: {name} was already set at {first_lines[name]}: keep one of the two"
                )
            merged[name] = value
            first_lines[name] = line
    return merged


def parse_value(text: str) -> Any:
    """Parse a YAML value, as in `--set key=value`; raise UserError if it is broken."""
    try:
        return _parse(text)[0]
    except yaml.YAMLError as error:
        raise UserError(f"{text!r} is not a YAML value: {_reason(error)}") from None
    except _Duplicate as twice:
        raise UserError(f"{text!r} sets {twice.name} twice: keep one of the two") from None


def _read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return a file's keys, and the line of each."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        keys, root = _parse_repaired(text, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not text in UTF-8: give a YAML file") from None
    except _Duplicate as twice:
        lines = " and ".join(str(node.start_mark.line + 1) for node in twice.nodes)
        raise UserError(
            f"{path}: {twice.name} is set twice, on lines {lines}: keep one of the two"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise UserError(f"{path}:{line}: not YAML: {_reason(error)}") from None
    if keys is None:
        return {}, {}
    if not isinstance(keys, dict):
        raise UserError(f"{path}: expected keys with values, found {type(keys).__name__}")
    return keys, {spelled(key.value): key.start_mark.line + 1 for key, _ in root.value}


def _parse_repaired(text: str, path: pathlib.Path) -> tuple[Any, Any]:
    """Parse YAML, and supply commas that are missing at the ends of lines, as in Pythia-12B's."""
    contents = (line.strip() for line in text.splitlines())
    if next((line for line in contents if line and line[0] != "#"), "").startswith("{"):
        text = text.replace("\t", " ")  # JSON may indent with tabs, YAML may not
    while True:
        try:
            return _parse(text)
        except yaml.parser.ParserError as error:
            mark = error.problem_mark
            if mark is None or not _comma_forgotten(text, mark, str(error.context)):
                raise
            log.warning("%s:%d: a comma is missing before this line", path, mark.line + 1)
            text = f"{text[: mark.index]},{text[mark.index :]}"


def _comma_forgotten(text: str, mark: yaml.Mark, context: str) -> bool:
    """Tell whether a quoted key starts a new line where a comma or the end was expected."""
    starts_line = not text[: mark.index].rpartition("\n")[2].strip()
    quoted_key = re.match(r'"[\w-]+"\s*:', text[mark.index :])
    return context == "while parsing a flow mapping" and starts_line and quoted_key is not None


def _parse(text: str) -> tuple[Any, Any]:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        return (None if root is None else loader.construct_document(root)), root
    finally:
        loader.dispose()


def _reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        return str(error.problem)
    return str(error).splitlines()[0]
