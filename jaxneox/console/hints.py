"""Commands as they are printed for the user to run next."""

import functools
import os
import shlex
import shutil
import sys
from pathlib import Path

NAME = "jaxneox"


def command(*words: str | os.PathLike[str]) -> str:
    """Write a command of this program so that it runs when pasted into a shell.

    Args:
        words: the command's name and its arguments, each quoted where a shell asks for it.
    """
    return " ".join((program(), *(shlex.quote(os.fspath(word)) for word in words)))


@functools.cache
def program() -> str:
    """Name this program as the user's shell finds it, in the environment that runs now."""
    beside = Path(sys.executable).parent / NAME
    on_path = shutil.which(NAME)
    if on_path is not None and Path(on_path).parent == beside.parent:
        return NAME
    if beside.is_file():
        return shlex.quote(_short(beside))
    return f"{shlex.quote(_short(Path(sys.executable)))} -m {NAME}"


def _short(path: Path) -> str:
    """The path from the working folder where it lies below it, else the whole path."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
