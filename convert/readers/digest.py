"""Reads every source file once from end to end, for its SHA-256 and its records' checksums."""

import hashlib
import zlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from convert.readers.torch_file import Record, TorchFile, damaged

BLOCK = 1 << 22


@dataclass(frozen=True)
class Digest:
    """A file's size in bytes and its SHA-256."""

    path: Path
    size: int
    sha256: str


class Digests:
    """Digests of files, computed one after another in the background of a conversion.

    `results` waits for them. It raises a UserError for a file whose content is not what was
    written.
    """

    def __init__(self, files: Iterable[Path | TorchFile]) -> None:
        self._pool = ThreadPoolExecutor(1, "digest")
        self._stopped = False
        self._futures: list[Future[Digest]] = [
            self._pool.submit(self._digest, file) for file in files
        ]

    def results(self) -> list[Digest]:
        return [future.result() for future in self._futures]

    def check(self) -> None:
        """Raise the error that has occurred so far, if any."""
        for future in self._futures:
            if future.done() and not future.cancelled():
                future.result()

    def __enter__(self) -> "Digests":
        return self

    def __exit__(self, *error: object) -> None:
        """Stop, even in the middle of a file."""
        self._stopped = True
        self._pool.shutdown(cancel_futures=True)

    def _digest(self, file: Path | TorchFile) -> Digest:
        path = file if isinstance(file, Path) else file.path
        sums = _Records(file) if isinstance(file, TorchFile) else None
        whole, at = hashlib.sha256(), 0
        room = memoryview(bytearray(BLOCK))  # one for all blocks: new memory has to be cleared
        with path.open("rb", buffering=0) as stream:
            while (count := stream.readinto(room)) and not self._stopped:
                block = room[:count]
                whole.update(block)
                if sums:
                    sums.update(at, block)
                at += count
        if sums and not self._stopped:
            sums.check()
        return Digest(path, at, whole.hexdigest())


def end_of(record: Record) -> int:
    return record.start + record.length


class _Records:
    """Checks the CRC-32 that `torch.save` wrote into a file for each of its records."""

    def __init__(self, file: TorchFile) -> None:
        self._file = file
        self._sums = dict.fromkeys(file.records, 0)
        self._order = sorted(file.records.items(), key=lambda item: item[1].start)

    def update(self, at: int, view: memoryview) -> None:
        while self._order and end_of(self._order[0][1]) <= at:
            self._order.pop(0)  # is behind us
        for name, record in self._order:
            if record.start >= at + len(view):
                break
            first = max(record.start, at)
            last = min(record.start + record.length, at + len(view))
            if first < last:
                part = view[first - at : last - at]
                self._sums[name] = zlib.crc32(part, self._sums[name])

    def check(self) -> None:
        for name, record in self._file.records.items():
            if self._sums[name] != record.crc:
                raise damaged(self._file.path, f"the checksum of its record {name} is wrong")
