"""`tune.yml` in a run's folder: the keys that were chosen, under the command that chose them."""

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxneox import checkpoint
from jaxneox.config import load_yaml
from jaxneox.console.text import one_line
from jaxneox.errors import UserError
from jaxneox.reading import read_text
from jaxneox.tune.report import as_yaml

FILE = "tune.yml"
COMMENT = "# "
DECIDING = (
    "--lora",
    "--chat-template",
    "--kind",
    "--hold-out",
    "--epochs",
    "--length",
    "--batch",
    "--lr",
)
"""The options by which data is prepared and keys are chosen."""


def command_of(args: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """Write the command in one line, with those of its options that decide what is trained."""
    words = ["jaxneox", "tune", args.model, *args.data]
    for option in DECIDING:
        name = option.removeprefix("--").replace("-", "_")
        value = getattr(args, name)
        if value != parser.get_default(name):
            words += [option, str(value)]
    return one_line(shlex.join(words))


def write(save: Path, command: str, keys: Mapping[str, Any]) -> None:
    """Keep the keys that a command has chosen."""
    (save / FILE).write_text(f"{COMMENT}{command}\n{as_yaml(keys)}\n")


def read(save: Path, command: str) -> dict[str, Any] | None:
    """Read the keys with which a run goes on.

    Args:
        save: the run's folder.
        command: the one that is given now.

    Returns:
        None if nothing is trained yet, so that all may be chosen anew.

    Raises:
        UserError: there is another run in the folder.
    """
    if not checkpoint.steps(save):
        return None
    file = save / FILE
    if not file.is_file():
        raise UserError(
            f"{save}: holds a run that `jaxneox tune` did not begin; give another folder with "
            "--save DIR"
        )
    before = read_text(file).partition("\n")[0].removeprefix(COMMENT)
    if before != command:
        raise UserError(
            f"{save}: was begun by `{before}`; go on with the same words, or begin another run "
            "with --save DIR"
        )
    return load_yaml([file])
