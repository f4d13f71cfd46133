"""Read NeoX's YAML files strictly, and merge them into one dictionary of keys with `_`."""

import logging
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import yaml

from jaxneox.config.shipped import find_config
from jaxneox.config.strict_yaml import LONGEST, BrokenYaml, parse
from jaxneox.errors import UserError
from jaxneox.reading import read_text

log = logging.getLogger(__name__)

PARSED_AGAIN = 4 << 20  # characters that may be parsed for the sake of missing commas


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
        return parse(text)[0]
    except BrokenYaml as error:
        shown = text if len(text) <= 80 else f"{text[:80]}…"
        raise UserError(f"{shown!r} is not a YAML value: {error}") from None


def _read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return a file's keys, and the line of each."""
    try:
        keys, lines = _parse_repaired(read_text(path, LONGEST), path)
    except BrokenYaml as error:
        what = "not YAML: " if error.syntax else ""
        raise UserError(f"{path}:{error.line}: {what}{error}") from None
    if keys is None:
        return {}, {}
    if not isinstance(keys, dict):
        raise UserError(f"{path}: expected keys with values, found {type(keys).__name__}")
    return keys, lines


def _parse_repaired(text: str, path: pathlib.Path) -> tuple[Any, dict[str, int]]:
    """Parse YAML, and supply commas that are missing at the ends of lines, as in Pythia-12B's."""
    contents = (line.strip() for line in text.splitlines())
    if next((line for line in contents if line and line[0] != "#"), "").startswith("{"):
        text = text.replace("\t", " ")  # JSON may indent with tabs, YAML may not
    parsed = 0
    while True:
        try:
            return parse(text)
        except BrokenYaml as broken:
            error = broken.syntax
            mark = None if error is None else error.problem_mark
            parsed += len(text)
            if (
                error is None
                or mark is None
                or parsed > PARSED_AGAIN
                or not _comma_forgotten(text, mark, str(error.context))
            ):
                raise
            log.warning("%s:%d: a comma is missing before this line", path, mark.line + 1)
            text = f"{text[: mark.index]},{text[mark.index :]}"


def _comma_forgotten(text: str, mark: yaml.Mark, context: str) -> bool:
    """Tell whether a quoted key starts a new line where a comma or the end was expected."""
    starts_line = not text[: mark.index].rpartition("\n")[2].strip()
    quoted_key = re.match(r'"[\w-]+"\s*:', text[mark.index :])
    return context == "while parsing a flow mapping" and starts_line and quoted_key is not None
