"""The converter's commands as a user types them, in this process."""

import contextlib
import io
from types import ModuleType
from typing import Any, NamedTuple


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that begins with `error:`."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error:")]
        return line


def run(command: ModuleType, *argv: Any) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command.main([str(arg) for arg in argv])
        except SystemExit as stop:
            status = int(stop.code or 0)
    return Said(status, out.getvalue(), err.getvalue())


def call(command: ModuleType, *argv: Any) -> Said:
    """A run that has to succeed."""
    said = run(command, *argv)
    assert said.status == 0, said.err
    return said
