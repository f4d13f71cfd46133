"""Commands as they are printed for the user to run next."""

import functools
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

NAME = "jaxneox"
_typed: list[str] = []


def command(*words: str | os.PathLike[str]) -> str:
    """Write a command of this program so that it runs when pasted into a shell.

    Args:
        words: the command's name and its arguments, each quoted where a shell asks for it; a path
            that begins like an option is written as `./-x`.
    """
    return " ".join((program(), *(shlex.quote(_typed_as(word)) for word in words)))


def _typed_as(word: str | os.PathLike[str]) -> str:
    text = os.fspath(word)
    return f"./{text}" if isinstance(word, os.PathLike) and text.startswith("-") else text


def remember(words: Sequence[str]) -> None:
    """Keep the command that runs now, for records such as a conversion's certificate."""
    _typed[:] = words


def typed_command() -> str:
    """Write the command that runs now as it would be typed anywhere."""
    return shlex.join([NAME, *_typed])


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
    """Return the path from the working folder if it is below it, else the whole path."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
