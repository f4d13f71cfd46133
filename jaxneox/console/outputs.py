"""Checks of an output file that are made before the work starts."""

import os
from pathlib import Path

from jaxneox.errors import UserError


def check_output(name: str | Path | None) -> None:
    """Raise UserError where no file of this name could be written; None is no file."""
    if name is None:
        return
    folder = Path(name).parent
    if Path(name).is_dir():
        raise UserError(f"{name}: it is a folder; expected the name of a file to be written")
    if not os.access(folder, os.W_OK | os.X_OK):
        reason = "cannot be written to" if folder.is_dir() else "is not a folder; make it first"
        raise UserError(f"{name} is to be written: {folder} {reason}")
