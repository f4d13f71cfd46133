"""The file PREFIX.sha256: the SHA-256 of both files of a dataset, as `sha256sum -c` reads it."""

import hashlib
import pathlib
import re
from collections.abc import Callable

from jaxneox.data.atomic import atomic_file
from jaxneox.errors import UserError

CHUNK = 16 << 20
LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def checksum_path(prefix: pathlib.Path) -> pathlib.Path:
    return prefix.with_name(prefix.name + ".sha256")


def file_sha256(path: pathlib.Path, advance: Callable[[int], object] = bool) -> str:
    """Compute a file's SHA-256, in hexadecimal; `advance` is called with the bytes of each read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
            advance(len(data))
    return digest.hexdigest()


def write_checksums(prefix: pathlib.Path, digests: dict[str, str]) -> None:
    """Write `digests` by the names of the files, which are beside it."""
    lines = [f"{digest}  {name}\n" for name, digest in digests.items()]
    with atomic_file(checksum_path(prefix)) as file:
        file.write("".join(lines).encode())


def read_checksums(prefix: pathlib.Path) -> dict[str, str] | None:
    """Read digests by the names of the files; None if there is no such file."""
    path = checksum_path(prefix)
    if not path.is_file():
        return None
    digests = {}
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        match = LINE.fullmatch(line)
        if not match:
            raise UserError(f"{path}, line {number}: expected a SHA-256, two spaces and a name")
        digests[match[2]] = match[1].lower()
    return digests
