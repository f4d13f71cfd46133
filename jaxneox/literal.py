"""Paths whose characters Orbax takes literally, whatever they are."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

_Local: Any = type(epath.Path("/"))  # the class of paths on a disk, which etils does not export


class LiteralPath(_Local):
    """A path on a disk whose `glob` takes only the given pattern for one.

    etils joins path and pattern and globs the whole. Orbax looks in this way for the files of each
    process: in a folder called `exp[1]` it finds none, and leaves a checkpoint that no reader can
    open. etils also takes `/gs/…` and `/s3/…`, where buckets are mounted, for `gs://…`.
    """

    _uri_scheme = None

    def glob(self, pattern: str) -> Iterator["LiteralPath"]:
        whole = os.path.join(glob.escape(os.fspath(self)), pattern)
        return (type(self)(found) for found in sorted(glob.glob(whole)))


def literal(path: Path) -> LiteralPath:
    """Make a path as Orbax takes it: absolute, with links followed."""
    return LiteralPath(path.resolve())


epath.register_path_cls(LiteralPath)  # so that Orbax keeps the class, and all paths below have it
