"""The adapters that are served beside their base: what `--adapter` says, and their names."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxneox.errors import UserError

HOW = "expected RUN or NAME=RUN"


class Adapters(NamedTuple):
    """What `--adapter` asks for.

    Attributes:
        alone: the one adapter with which the model itself is served, under the model's name.
        named: adapters that are models of their own beside the model, by name.
    """

    alone: str | None
    named: dict[str, str]


def adapters_of(given: Sequence[str], base: str) -> Adapters:
    """Read the options: one run is the model's own, names and several runs are further models.

    Args:
        given: each a run, or a name and a run, `NAME=RUN`; a folder whose name has a `=` is a run.
        base: the name of the model.

    Raises:
        UserError: a name or a run is empty, or a name stands for two models.
    """
    each = [_split(one) for one in given]
    if len(each) == 1 and each[0][0] is None:
        return Adapters(each[0][1], {})
    named: dict[str, str] = {}
    for name, run in each:
        own = name or run_name(run)
        if own == base:
            raise UserError(
                f"--adapter {run}: {own!r} is the name of the model itself; give the adapter "
                "another one, --adapter NAME=RUN, or the model, --name NAME"
            )
        if own in named:
            raise UserError(
                f"--adapter {run}: {own!r} is the name of {named[own]} already; give one of them "
                "another name, --adapter NAME=RUN"
            )
        named[own] = run
    return Adapters(None, named)


def run_name(where: str) -> str:
    """Name a checkpoint for clients: by its folder, of one step by the run's."""
    folder = Path(where).resolve()
    of_step = re.fullmatch(r"step_\d+", folder.name) and folder.parent.name
    return of_step or folder.name


def _split(given: str) -> tuple[str | None, str]:
    """Split into a name, if one is given, and a run."""
    if "=" not in given or Path(given).exists():
        if not given:
            raise UserError(f"--adapter {given!r}: {HOW}")
        return None, given
    name, _, run = given.partition("=")
    if not (name.strip() and run and name.isprintable()):
        raise UserError(f"--adapter {given!r}: {HOW}")
    return name, run
