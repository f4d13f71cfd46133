"""The outcome of a case: it was read, refused with one line, or met a fault of ours."""

import re
from dataclasses import dataclass
from pathlib import Path

SECONDS, MEGABYTES = 5, 1024
LONGEST = 8000  # characters of an error's line
GOOD = ("read", "refused")
UNFORESEEN = "a fault of this program"  # the words of a command that did not foresee an exception
NOTE = re.compile(r"(note|warning|skipped|\S+: a comma|.*:\d+: a comma)")


@dataclass(frozen=True)
class Outcome:
    """The way in which a command ended.

    Attributes:
        kind: "read", "refused", or the name of a fault.
        line: its last words.
        seconds: of the processor.
        megabytes: by which its memory grew.
    """

    kind: str
    line: str
    seconds: float
    megabytes: float

    @property
    def good(self) -> bool:
        return self.kind in GOOD


def judge(status: int, errors: str, seconds: float, megabytes: float, limit: float) -> str:
    """Name what became of a command that ended by itself.

    Args:
        status: its exit status, as of `os.waitstatus_to_exitcode`.
        errors: all that it printed on stderr.
        seconds: of the processor.
        megabytes: by which its memory grew.
        limit: the seconds that it may take.
    """
    lines = errors.strip().splitlines()
    last = lines[-1] if lines else ""
    if "Traceback" in errors:
        return "traceback"
    if seconds > limit:
        return "slow"
    if megabytes > MEGABYTES or "needs more memory than there is" in last:
        return "memory"
    if status not in (0, 2):
        return "signal" if status < 0 else f"status {status}"
    if status == 0:
        return "read"
    if UNFORESEEN in last:
        return "unforeseen"
    lonely = all(NOTE.match(line) for line in lines[:-1])
    if not last.startswith("error: ") or not lonely or len(last) > LONGEST:
        return "not one line"
    return "refused"


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """List what is in a folder, to be compared with what is there later."""
    return {
        str(path.relative_to(folder)): (status.st_size, status.st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
        for status in [path.stat()]
    }
