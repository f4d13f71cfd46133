"""Reads small files of others: within a size, as text or JSON, with one line for each fault.

A path that a user gives may be a pipe, whose opening waits for a writer, or a device without end;
a file of keys may be gigabytes long or nested without end. What reads such a file whole comes
through here.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from jaxneox.errors import UserError
from jaxneox.lfs import refuse_pointer

CONFIG_SIZE = 16 << 20  # bytes of a file of settings
INDEX_SIZE = 64 << 20  # bytes of a file that lists tensors, tokens or files
NAME_SIZE = 1 << 16  # bytes of a file that holds a name or a number
DIGITS = 40  # of a whole number; the longest that means something is of 128 bits
DEEPEST = 64  # lists and objects in each other

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def refuse_special(path: str | Path) -> None:
    """Refuse what is there but is no regular file, before anything opens it.

    Raises:
        UserError: it is a folder, a pipe, a socket or a device.
        OSError: nothing is there, or it may not be looked at.
    """
    mode = Path(path).stat().st_mode
    for is_kind, name in KINDS:
        if is_kind(mode):
            raise UserError(f"{path}: is {name}, expected a file")


def refuse_odd_files(folder: Path) -> None:
    """Refuse a folder in which anything at any depth is a pipe, a socket or a device.

    For what libraries open by themselves; nothing is asked of the system for an ordinary file.

    Raises:
        UserError: it has one.
        OSError: a folder cannot be listed.
    """
    folders = [os.fspath(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not (entry.is_file() or entry.is_dir()) and Path(entry.path).exists():
                    refuse_special(entry.path)


def regular_file(path: str | Path) -> Path:
    """Return the path of a file that can be read more than once, and to its end.

    Raises:
        UserError: there is none, or it is a folder, a pipe, a socket or a device.
    """
    try:
        refuse_special(path)
    except (OSError, ValueError) as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else f"no file ({error})"
        raise UserError(f"{path}: {why}") from error
    return Path(path)


def refuse_unreadable(path: str | Path) -> None:
    """Refuse what is no regular file, and a Git LFS pointer in a file's place.

    Raises:
        UserError: it is one of these.
        OSError: nothing is there, or it may not be looked at.
    """
    refuse_special(path)
    refuse_pointer(Path(path))


def read_bytes(path: Path, most: int) -> bytes:
    """Read a whole file.

    Args:
        path: the file.
        most: the bytes that a file of this kind may have.

    Raises:
        UserError: it is no regular file, cannot be read, is a Git LFS pointer or is longer.
    """
    try:
        refuse_unreadable(path)
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) > most:
        raise UserError(
            f"{path}: is longer than the {most} bytes that are read of such a file; is it the "
            "right one?"
        )
    return content


def read_text(path: Path, most: int = CONFIG_SIZE, *, errors: str = "strict") -> str:
    """Read a whole file of UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        most: the bytes that a file of this kind may have.
        errors: as of `bytes.decode`.

    Raises:
        UserError: as of `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text in UTF-8 (byte {error.start})") from error


def read_json(path: Path, most: int = CONFIG_SIZE) -> Any:
    """Read a file of JSON.

    Args:
        path: the file.
        most: the bytes that a file of this kind may have.

    Raises:
        UserError: as of `read_text`, or as of `parse_json`.
    """
    return parse_json(read_text(path, most), path)


def read_object(path: Path, most: int = CONFIG_SIZE) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        UserError: as of `read_json`, or it holds something else.
    """
    content = read_json(path, most)
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: holds {type(content).__name__}, expected a JSON object of keys and values"
        )
    return content


def parse_json(text: str | bytes, where: object) -> Any:
    """Parse JSON strictly: no NaN, no endless number, no nesting that nobody can walk through.

    Args:
        text: the JSON, as text or in UTF-8.
        where: the file, or another place, for errors.

    Raises:
        UserError: it is not JSON, or goes beyond these limits.
    """
    try:
        value = json.loads(text, parse_int=_whole, parse_float=_float, parse_constant=_no_number)
        if is_deep(value):
            raise UserError(f"{where}: {_DEEP}")
        json.dumps(value, ensure_ascii=False).encode()  # half a character, which JSON can name
    except RecursionError:
        raise UserError(f"{where}: {_DEEP}") from None
    except ValueError as error:
        raise UserError(f"{where}: is not valid JSON ({error})") from error
    return value


_DEEP = f"nests more than {DEEPEST} lists and objects in each other"


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:DIGITS]} is too large")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def is_deep(value: Any) -> bool:
    """Tell whether a value of JSON nests more than DEEPEST lists and objects in each other."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [one for part in parts for one in part if isinstance(one, dict | list)]
    return bool(level)
