"""The files of a dataset behind a URL, through fsspec: s3://, gs://, https:// and others.

The index is fetched once into the cache, for all runs and processes; the tokens are read by
ranges, as they are needed.
"""

import contextlib
import hashlib
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec

from jaxneox.data.atomic import atomic_file
from jaxneox.data.cache import cache_root, say_damaged
from jaxneox.data.sha256 import file_sha256
from jaxneox.data.storage import mapped
from jaxneox.errors import UserError

DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
DRIVERS |= {"http": "aiohttp", "https": "aiohttp"}
VERSIONS = ("ETag", "etag", "LastModified", "Last-Modified", "mtime", "updated", "created")
PAUSES = (0, 1, 2)  # seconds before each try of a read: object stores are busy at times


class RemoteFiles:
    """A `.bin/.idx` pair behind two URLs; see `Files`.

    Raises:
        UserError: for all that fails.
    """

    def __init__(self, bin_url: str, idx_url: str) -> None:
        self.index = mapped(_fetched(_Remote(idx_url)))
        self._bin = _Remote(bin_url)
        self.bin_size = self._bin.size

    def ranges(self, starts: Sequence[int], stops: Sequence[int]) -> Iterator[bytes]:
        """Make one call for all ranges, which the driver answers side by side if it can."""
        answers: list[Any] = [b""] * len(starts)
        missing = [k for k in range(len(starts)) if starts[k] < stops[k]]
        for pause in PAUSES:
            if not missing:
                break
            time.sleep(pause)
            new = self._bin.read([starts[k] for k in missing], [stops[k] for k in missing])
            for k, answer in zip(missing, new, strict=True):
                answers[k] = answer
            missing = [k for k in missing if not _whole(answers[k], stops[k] - starts[k])]
        if missing:
            k = missing[0]
            raise self._bin.unread(starts[k], stops[k], answers[k])
        return iter(answers)


class _Remote:
    """One file behind a URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        with _one_line(url):
            self.fs, self.path = fsspec.core.url_to_fs(url)
            self.fs.invalidate_cache()
            info = self.fs.info(self.path)
        if not isinstance(info.get("size"), int) or info.get("type") == "directory":
            raise UserError(f"{url}: no file of a known size; expected one on an object store")
        self.size: int = info["size"]
        self.version = [str(info[key]) for key in VERSIONS if info.get(key)]

    def read(self, starts: list[int], stops: list[int]) -> Sequence[bytes | Exception]:
        paths = [self.path] * len(starts)
        try:
            return self.fs.cat_ranges(paths, starts, stops, on_error="return")
        except Exception as error:  # drivers raise anything
            return [error] * len(starts)

    def unread(self, start: int, stop: int, answer: Any) -> UserError:
        """Explain a read that has failed, or is not as long as it should be."""
        now = _Remote(self.url).size  # says itself what is wrong if the file has gone
        if now != self.size:
            what = f"the file had {self.size} bytes and has {now} now: start again"
        elif isinstance(answer, Exception):
            what = _first_line(answer)
        else:
            what = f"{len(answer)} bytes came: the server may not know ranges, copy the file"
        return UserError(f"{self.url}: cannot read {stop - start} bytes at offset {start}: {what}")


def exists(url: str) -> bool:
    """Tell whether there is such a file; raise UserError if that cannot be found out."""
    with _one_line(url):
        fs, path = fsspec.core.url_to_fs(url)
        return bool(fs.exists(path))


def _fetched(remote: _Remote) -> pathlib.Path:
    """Return a copy in the cache.

    Of several processes each writes its own, and the last one stays. A copy that has changed since
    is fetched again.
    """
    key = hashlib.sha256("\n".join([remote.url, str(remote.size), *remote.version]).encode())
    name = remote.url.rpartition("/")[2]
    path = cache_root() / "remote" / f"{key.hexdigest()[:16]}-{name}"
    noted = cache_root() / "remote-sums" / path.name
    if path.is_file():
        if path.stat().st_size == remote.size and _holds(path, noted):
            return path
        say_damaged(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{name}.")
        os.close(number)
        with _one_line(remote.url):
            remote.fs.get_file(remote.path, temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
            size = file.seek(0, os.SEEK_END)
        if size != remote.size:
            raise UserError(f"{remote.url}: {size} bytes came, expected {remote.size}; try again")
        noted.parent.mkdir(exist_ok=True)
        with atomic_file(noted) as sums:
            sums.write(file_sha256(pathlib.Path(temporary)).encode())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot keep a copy of {remote.url} ({error.strerror or error}); make room or "
            "set JAXNEOX_CACHE to another folder"
        ) from error
    finally:
        if temporary is not None:
            pathlib.Path(temporary).unlink(missing_ok=True)
    return path


def _holds(path: pathlib.Path, noted: pathlib.Path) -> bool:
    """Tell whether a copy is still what was fetched; earlier versions noted nothing."""
    return not noted.is_file() or noted.read_text() == file_sha256(path)


@contextlib.contextmanager
def _one_line(url: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        protocol = url.partition("://")[0]
        package = DRIVERS.get(protocol, f"the fsspec driver of {protocol}")
        raise UserError(f"{url}: reading it needs `pip install {package}`") from error
    except FileNotFoundError as error:  # which is also what HTTP's calls a server that is away
        why = f" ({_first_line(error.__cause__)})" if error.__cause__ else ""
        raise UserError(
            f"{url}: not found{why}; a dataset is a pair PREFIX.bin and PREFIX.idx"
        ) from error
    except Exception as error:  # drivers raise anything
        raise UserError(f"{url}: cannot be read ({_first_line(error)})") from error


def _whole(answer: Any, size: int) -> bool:
    return not isinstance(answer, Exception) and len(answer) == size


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__
