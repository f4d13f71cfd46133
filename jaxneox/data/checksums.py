"""PREFIX.sha256: the SHA-256 of both files of a dataset, as `sha256sum -c` reads it."""

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
    """Hexadecimal; `advance` is told of the bytes that have been read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
            advance(len(data))
    return digest.hexdigest()


def write_checksums(prefix: pathlib.Path, digests: dict[str, str]) -> None:
    """`digests` by the names of the files, which lie beside."""
    lines = [f"{digest}  {name}\n" for name, digest in digests.items()]
    with atomic_file(checksum_path(prefix)) as file:
        file.write("".join(lines).encode())


def read_checksums(prefix: pathlib.Path) -> dict[str, str] | None:
    """Digests by the names of the files, or None where there is no such file."""
    path = checksum_path(prefix)
    if not path.is_file():
        return None
    found = {}
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        match = LINE.fullmatch(line)
        if not match:
            raise UserError(f"{path}, line {number}: expected a SHA-256, two spaces and a name")
        found[match[2]] = match[1].lower()
    return found
