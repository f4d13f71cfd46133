"""A file's content block by block, decompressed by its suffix, never much of it at a time."""

import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

from jaxneox.data.library import reason
from jaxneox.errors import UserError

BLOCK = 1 << 16  # bytes read at a time: of .gz they become 64 MiB at most
ZSTD_BLOCK = 1 << 12  # of .zst they become 128 MiB at most
LONGEST_WINDOW = 1 << 31  # bytes that zstd --long=31 looks back


class DamagedError(Exception):
    """A compressed file that ends too early or is not what its name says."""


def blocks(path: pathlib.Path) -> Iterator[tuple[bytes, int]]:
    """Yield a file's content, decompressed, and how many of its bytes are read so far.

    Raises:
        DamagedError: it cannot be decompressed.
        UserError: the package that decompresses it is not installed.
    """
    new = {".gz": _gzip, ".zst": _zstandard}.get(path.suffix)
    size = min(BLOCK, ZSTD_BLOCK) if new is _zstandard else BLOCK
    stream: Any = None
    with path.open("rb") as file:
        while block := file.read(size):
            read = file.tell()
            while new and block:  # a file may be several compressed streams, one after another
                stream = stream or new(path)
                try:
                    content = stream.decompress(block)
                except Exception as error:  # each library has its own
                    raise DamagedError(f"damaged {path.suffix} ({reason(error)})") from error
                yield content, read
                block = stream.unused_data if stream.eof else b""
                stream = None if stream.eof else stream
            if new is None:
                yield block, read
    if stream is not None:
        raise DamagedError(f"truncated {path.suffix}, it ends within its compressed data")


def _gzip(path: pathlib.Path) -> Any:
    return zlib.decompressobj(wbits=31)


def _zstandard(path: pathlib.Path) -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise UserError(f"{path}: reading .zst needs `pip install zstandard`") from error
    return zstandard.ZstdDecompressor(max_window_size=LONGEST_WINDOW).decompressobj()
