"""Datasets that grow in a hidden folder, survive a kill and get their names when they are whole.

.PREFIX.preprocess/         beside the output, locked by the one command that writes
  state.json                how much of the files below is safely on disk, of what input
  NAME.bin, NAME.sizes      tokens and int32 sizes of the documents so far
  NAME.float64              in place of NAME.bin for rewards: only at the end it is known whether
                            all are whole numbers, and so what type they have in NAME.bin
  NAME.idx, NAME.sha256     at the end, then all move to PREFIX_NAME_document.*
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.writer import write_index
from jaxneox.errors import UserError
from jaxneox.preprocess.encode import Encoded
from jaxneox.preprocess.rewards import NUMBER, stored_type

EVERY = 5.0  # seconds of work that a kill may cost
STATE, LOCK = "state.json", "lock"
SIZES = ".sizes"
BLOCK = 1 << 20  # bytes, or rewards, that are read at a time
MOVED = (".bin", ".sha256", ".idx")  # in this order: without an index there is no dataset


@dataclass
class State:
    """How much of the work is done.

    Attributes:
        identity: what decides the output.
        chunks: how many are done, of `documents` documents and `read` bytes of input.
        whole: the datasets are complete, and have only to get their names.
        ends: for each dataset the bytes of its growing files.
        counts: of all chunks, see `Encoded`.
        rewards: the type of each dataset of rewards, once it is whole.
    """

    identity: dict[str, Any]
    chunks: int = 0
    documents: int = 0
    read: int = 0
    whole: bool = False
    ends: dict[str, list[int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    rewards: dict[str, str] = field(default_factory=dict)


class Output:
    """A context manager: `add` chunk after chunk, from number `state.chunks` on, then `finish`.

    Raises:
        UserError: the datasets exist already, or another command is writing them.
    """

    def __init__(
        self,
        prefix: pathlib.Path,
        dtypes: Mapping[str, np.dtype[Any]],
        identity: dict[str, Any],
        overwrite: bool = False,
    ) -> None:
        self.prefix = prefix
        self.dtypes = dtypes
        self.folder = prefix.parent / f".{prefix.name}.preprocess"
        self.state = State(json.loads(json.dumps(identity)))
        self.state.ends = {name: [0, 0] for name in dtypes}
        self._overwrite = overwrite
        self._saved = time.monotonic()
        self._open_files = contextlib.ExitStack()
        self._files: dict[str, tuple[IO[bytes], IO[bytes]]] = {}
        self._digests = {name: hashlib.sha256() for name in dtypes}

    def target(self, name: str, suffix: str = "") -> pathlib.Path:
        return self.prefix.parent / f"{self.prefix.name}_{name}_document{suffix}"

    def __enter__(self) -> Self:
        self._refuse_existing(self._earlier())
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            self._lock(stack)
            earlier = self._earlier()  # another command may have come to its end meanwhile
            self._refuse_existing(earlier)
            if earlier:
                self.state = earlier
            else:
                self._empty()
            if not self.state.whole:
                self._open(stack)
            self._open_files = stack.pop_all()
        return self

    def _refuse_existing(self, earlier: State | None) -> None:
        targets = [self.target(name, suffix) for name in self.dtypes for suffix in MOVED]
        there = [str(path) for path in targets if path.exists()]
        if there and not self._overwrite and not (earlier and earlier.whole):
            raise UserError(f"{there[0]}: exists already; give --overwrite or another prefix")

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        with self._open_files:
            if kind is not None and self.state.chunks and not self.state.whole:
                self.save()  # the same command goes on from here
        if kind is not None and not self.state.chunks and not self.state.whole:
            shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, encoded: Encoded) -> None:
        """Append a chunk."""
        for (name, ends), row in zip(self.state.ends.items(), encoded.rows, strict=True):
            tokens, sizes = row
            if name in encoded.counts:
                tokens = _numbered(tokens, self.dtypes[name], self.state.counts.get(name, 0))
            for index, (file, data) in enumerate(
                zip(self._files[name], (tokens, sizes), strict=True)
            ):
                file.write(data)
                ends[index] += len(data)
            self._digests[name].update(tokens)
        for name, count in encoded.counts.items():
            self.state.counts[name] = self.state.counts.get(name, 0) + count
        self.state.chunks += 1
        self.state.documents += encoded.documents
        self.state.read += encoded.read
        if time.monotonic() - self._saved >= EVERY:
            self.save()

    def save(self) -> None:
        """Note that all that was added is on disk."""
        for file in (file for pair in self._files.values() for file in pair):
            file.flush()
            os.fsync(file.fileno())
        temporary = self.folder / "state.tmp"
        _write(temporary, json.dumps(asdict(self.state)).encode())
        os.replace(temporary, self.folder / STATE)
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Give the datasets their names. What is interrupted here is done by the next start."""
        if not self.state.whole:
            self.save()
            for name, dtype in self.dtypes.items():
                self._complete(name, dtype)
            self.state.whole = True
            self.save()
        for name in self.dtypes:
            if (self.folder / f"{name}.bin").exists():
                self.target(name, ".idx").unlink(missing_ok=True)  # an older one's
            for suffix in MOVED:
                if (made := self.folder / f"{name}{suffix}").exists():
                    os.replace(made, self.target(name, suffix))
        shutil.rmtree(self.folder)

    def _complete(self, name: str, dtype: np.dtype[Any]) -> None:
        """Write the index and the checksums of a dataset whose tokens are on disk."""
        if dtype == NUMBER:
            dtype, self._digests[name] = self._write_rewards(name)
            self.state.rewards[name] = dtype.name
        sizes = np.fromfile(self.folder / f"{name}.sizes", "<i4")
        with (self.folder / f"{name}.idx").open("w+b") as index:
            write_index(index, dtype, sizes, np.arange(len(sizes) + 1))
            index.flush()
            os.fsync(index.fileno())
            index.seek(0)
            sums = {".bin": self._digests[name], ".idx": hashlib.file_digest(index, "sha256")}
        lines = (f"{sums[end].hexdigest()}  {self.target(name, end).name}\n" for end in sums)
        _write(self.folder / f"{name}.sha256", "".join(lines).encode())

    def _write_rewards(self, name: str) -> tuple[np.dtype[Any], Any]:
        """Write rewards in the type that holds them all; return it, and their checksum."""
        digest = hashlib.sha256()
        types = {stored_type(block) for block in _blocks(self._growing(name)[0])}
        dtype = types.pop() if len(types) == 1 else np.dtype(np.float32)
        with (self.folder / f"{name}.bin").open("wb") as file:
            for block in _blocks(self._growing(name)[0]):
                data = block.astype(dtype.newbyteorder("<")).tobytes()
                file.write(data)
                digest.update(data)
            file.flush()
            os.fsync(file.fileno())
        return dtype, digest

    def _growing(self, name: str) -> tuple[pathlib.Path, pathlib.Path]:
        """Return the files that a dataset grows in: of its tokens, and of its sizes."""
        tokens = ".float64" if self.dtypes[name] == NUMBER else ".bin"
        return self.folder / f"{name}{tokens}", self.folder / f"{name}{SIZES}"

    def _earlier(self) -> State | None:
        """Read what a command with the same input and settings left."""
        try:
            state = State(**json.loads((self.folder / STATE).read_bytes()))
            known = state.identity == self.state.identity
            lost = (
                known
                and not state.whole
                and any(
                    path.stat().st_size < end
                    for name, ends in state.ends.items()
                    for path, end in zip(self._growing(name), ends, strict=True)
                )
            )
        except (OSError, ValueError, TypeError):
            return None
        return state if known and not lost else None

    def _lock(self, stack: contextlib.ExitStack) -> None:
        lock = stack.enter_context((self.folder / LOCK).open("wb"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{self.prefix}: another command is writing it; wait for it or give another prefix"
            ) from error

    def _empty(self) -> None:
        """Remove what other input or settings left; the state first, which describes the rest."""
        for path in (self.folder / STATE, *self.folder.iterdir()):
            if path.name != LOCK:
                path.unlink(missing_ok=True)

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Open the growing files, without what came after the state was saved."""
        for name, ends in self.state.ends.items():
            pair = [stack.enter_context(path.open("a+b")) for path in self._growing(name)]
            for file, end in zip(pair, ends, strict=True):
                file.truncate(end)
            pair[0].seek(0)
            while block := pair[0].read(BLOCK):
                self._digests[name].update(block)
            self._files[name] = (pair[0], pair[1])


def _numbered(tokens: bytes, dtype: np.dtype[Any], before: int) -> bytes:
    """Add to numbers that begin at 0 how many there are before them."""
    little = dtype.newbyteorder("<")
    return (np.frombuffer(tokens, little) + little.type(before)).astype(little).tobytes()


def _blocks(path: pathlib.Path) -> Iterator[NDArray[np.float64]]:
    """Yield the rewards of a file."""
    with path.open("rb") as file:
        while data := file.read(BLOCK * NUMBER.itemsize):
            yield np.frombuffer(data, "<f8")


def _write(path: pathlib.Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
