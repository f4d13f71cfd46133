"""Files that have their name only when they are whole."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def atomic_file(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """Write beside `path`, under a hidden name, and rename at the end.

    Leave nothing if it fails.
    """
    # not by the process's number, which threads share and other hosts have as well
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
