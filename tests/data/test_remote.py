"""A dataset behind a URL gives the tokens of its local copy, and what fails is said in one line."""

import http.server
import pathlib
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest

from jaxneox.data import remote
from jaxneox.data.indexed import IndexedDataset, dataset_prefix, locate
from jaxneox.data.storage import Url
from jaxneox.data.writer import IndexedWriter
from jaxneox.errors import UserError

DOCUMENTS = [[5, 6, 7], [], [8], [9, 10, 11, 12]]


class Server(http.server.ThreadingHTTPServer):
    """A folder with ranges and ETags. `broken`: the next requests that are answered with 503."""

    folder: pathlib.Path
    requests: list[str]
    broken = 0
    ranges = True


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append(f"{self.command} {self.path} {wanted or 'whole'}")
        file = self.server.folder / self.path.lstrip("/")
        if wanted and self.server.broken:
            self.server.broken -= 1
            return self.send_error(503)
        if not file.is_file():
            return self.send_error(404)
        data, status = file.read_bytes(), 200
        tag = f'"{hash(data)}"'
        if wanted and self.server.ranges:
            first, last = map(int, re.findall(r"\d+", wanted))
            data, status = data[first : last + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", tag)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Server]:
    pytest.importorskip("aiohttp")
    with Server(("127.0.0.1", 0), Handler) as server:
        server.folder, server.requests = tmp_path / "served", []
        server.folder.mkdir()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("JAXNEOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSES", (0, 0))
    return tmp_path / "cache" / "remote"


@pytest.fixture
def local(tmp_path: pathlib.Path) -> pathlib.Path:
    return write(tmp_path / "x_text_document")


@pytest.fixture
def memory(local: pathlib.Path) -> Iterator[str]:
    url = f"memory://corpora/{local.parent.name}/{local.name}"
    upload(local, url)
    yield url
    fsspec.filesystem("memory").store.clear()


def write(prefix: pathlib.Path, documents: list[list[int]] = DOCUMENTS) -> pathlib.Path:
    with IndexedWriter(prefix, "uint16") as out:
        for document in documents:
            out.add(document)
    return prefix


def upload(prefix: pathlib.Path, url: str) -> None:
    for suffix in (".bin", ".idx"):
        fsspec.filesystem("memory").pipe(url + suffix, prefix.with_suffix(suffix).read_bytes())


def serve(server: Server, documents: list[list[int]] = DOCUMENTS) -> str:
    write(server.folder / "x", documents)
    return f"http://127.0.0.1:{server.server_port}/x"


def check_same(url: str, prefix: pathlib.Path) -> None:
    far, near = IndexedDataset(url), IndexedDataset(prefix)
    assert far.dtype == near.dtype and far.total == near.total and len(far) == len(near)
    assert np.array_equal(far.sizes, near.sizes) and np.array_equal(far.doc_idx, near.doc_idx)
    assert [far.get(i).tolist() for i in range(len(far))] == DOCUMENTS
    wanted = [0, 6, 3, 8, 0], [8, 2, 0, 0, 1]
    assert [r.tolist() for r in far.ranges(*wanted)] == [r.tolist() for r in near.ranges(*wanted)]
    assert far.content == near.content
    with pytest.raises(IndexError):
        far.ranges([7], [2])
    assert (far.prefix.name, str(far.prefix)) == (near.prefix.name, url)
    assert str(far.bin_path) == f"{url}.bin" and str(far.idx_path) == f"{url}.idx"


def test_memory(memory: str, local: pathlib.Path) -> None:
    check_same(memory, local)


def test_http(server: Server, local: pathlib.Path) -> None:
    url = serve(server)
    write(local.with_name("x"))
    check_same(url, local.with_name("x"))


def test_index_is_fetched_once_and_pieces_by_ranges(server: Server, cache: pathlib.Path) -> None:
    url = serve(server)
    datasets = [IndexedDataset(url) for _ in range(3)]
    assert server.requests.count("GET /x.idx whole") == 1
    assert len(list(cache.iterdir())) == 1  # and no temporary file is left
    server.requests.clear()
    assert [r.tolist() for r in datasets[2].ranges([4, 0], [2, 1])] == [[9, 10], [5]]
    assert sorted(server.requests) == ["GET /x.bin bytes=0-1", "GET /x.bin bytes=8-11"]


@pytest.mark.parametrize("where", [-1, 40])
def test_a_damaged_copy_is_fetched_again(
    where: int, server: Server, cache: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = serve(server)
    IndexedDataset(url)
    (copy,) = cache.iterdir()
    content = copy.read_bytes()
    copy.write_bytes(content[:where] + (content[where + 1 :] and b"\x55" + content[where + 1 :]))
    assert IndexedDataset(url).get(3).tolist() == DOCUMENTS[3]
    assert copy.read_bytes() == content
    assert f"{copy} is damaged: making it again" in capsys.readouterr().err


def test_all_pieces_of_a_batch_are_one_call(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = IndexedDataset(memory)
    calls = []
    kind = type(fsspec.filesystem("memory"))
    ask = kind.cat_ranges
    monkeypatch.setattr(kind, "cat_ranges", lambda *a, **k: calls.append(a[2]) or ask(*a, **k))
    list(dataset.ranges([*range(8), 3], [1] * 8 + [0]))  # nothing is asked for an empty one
    assert calls == [[0, 2, 4, 6, 8, 10, 12, 14]]


def test_index_that_many_fetch_at_once(server: Server, cache: pathlib.Path) -> None:
    url = serve(server)
    with ThreadPoolExecutor(8) as pool:
        datasets = list(pool.map(IndexedDataset, [url] * 8))
    assert all(dataset.get(3).tolist() == DOCUMENTS[3] for dataset in datasets)
    assert len(list(cache.iterdir())) == 1


def test_another_index_at_the_same_place_is_fetched_again(server: Server) -> None:
    url = serve(server)
    IndexedDataset(url)
    serve(server, [[5], [6, 7], [8], [9, 10, 11, 12]])  # of the same size
    assert IndexedDataset(url).sizes.tolist() == [1, 2, 1, 4]


def test_busy_server_is_asked_again(server: Server) -> None:
    dataset = IndexedDataset(serve(server))
    server.broken = 1
    assert [r.tolist() for r in dataset.ranges([0, 2, 7], [2, 1, 1])] == [[5, 6], [7], [12]]
    server.broken = 9
    with pytest.raises(UserError, match=r"x\.bin: cannot read 4 bytes at offset 8: .*503"):
        dataset.ranges([0, 4], [0, 2])


def test_server_without_ranges(server: Server) -> None:
    server.ranges = False
    dataset = IndexedDataset(serve(server))
    with pytest.raises(UserError, match="4 bytes at offset 8: 16 bytes came: the server may not"):
        dataset.ranges([4], [2])


def test_file_that_changes_or_goes(memory: str) -> None:
    files = fsspec.filesystem("memory")
    dataset = IndexedDataset(memory)
    files.pipe(memory + ".bin", bytes(10))
    with pytest.raises(UserError, match="at offset 8: the file had 16 bytes and has 10 now"):
        dataset.get(3)
    files.rm(memory + ".bin")
    with pytest.raises(UserError, match=rf"{memory}\.bin: not found; a dataset"):
        dataset.get(3)


def test_truncated(memory: str) -> None:
    fsspec.filesystem("memory").pipe(memory + ".bin", bytes(10))
    with pytest.raises(UserError, match=r"10 bytes, but x_text_document\.idx lists 8 tokens"):
        IndexedDataset(memory)


@pytest.mark.parametrize("missing", [".bin", ".idx"])
def test_missing(memory: str, server: Server, missing: str) -> None:
    fsspec.filesystem("memory").rm(memory + missing)
    with pytest.raises(UserError, match=rf"^{memory}\{missing}: not found; a dataset"):
        IndexedDataset(memory)
    url = serve(server)
    (server.folder / f"x{missing}").unlink()
    with pytest.raises(UserError, match=rf"^{url}\{missing}: not found \(.*404"):
        IndexedDataset(url)


def test_server_that_is_away(server: Server) -> None:
    server.shutdown()
    server.server_close()
    url = f"http://127.0.0.1:{server.server_port}/x"
    with pytest.raises(UserError, match=rf"^{url}\.idx: not found \(.*connect.*\); a dataset"):
        IndexedDataset(url)


def test_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"^s3://b/x\.idx: reading it needs `pip install s3fs`$"):
        IndexedDataset("s3://b/x")
    with pytest.raises(UserError, match=r"^nowhere://b/x\.idx: cannot be read .*nowhere"):
        IndexedDataset("nowhere://b/x")


def test_cache_that_cannot_be_written(memory: str, cache: pathlib.Path) -> None:
    cache.parent.write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot keep a copy of memory.*JAXNEOX_CACHE"):
        IndexedDataset(memory)


def test_urls_are_kept_and_not_written(tmp_path: pathlib.Path) -> None:
    url = "s3://bucket/v1.5/x.text"
    for given in (url, f"{url}.bin", f"{url}.idx"):
        assert locate(given) == Url(url) and str(locate(given)) == url
    assert str(Url(url).with_name("y")) == "s3://bucket/v1.5/y"
    assert isinstance(locate("C:/x"), pathlib.Path) and isinstance(locate("a//x"), pathlib.Path)
    with pytest.raises(UserError, match="expected a local path"):
        dataset_prefix(url)
