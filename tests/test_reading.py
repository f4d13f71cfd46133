"""Files of others are read within limits, and what is no file is never opened."""

import io
import json
import os
import socket
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convert.inspection.megatron_files import read_index
from convert.readers.hf_files import tensors
from convert.readers.torch_file import TorchFile
from jaxneox.config import load_yaml
from jaxneox.data.companions import read as read_companion
from jaxneox.data.documents import input_files
from jaxneox.data.indexed import IndexedDataset
from jaxneox.errors import UserError
from jaxneox.evaluate.corpus import texts_of
from jaxneox.generate.prompts import from_file
from jaxneox.npz import read_arrays
from jaxneox.reading import DEEPEST, read_json, read_object, read_text

JSON = {
    "deep": ("[" * 5000 + "]" * 5000, "nests more than"),
    "deeper than is read": ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nests more than"),
    "a long number": ("9" * 5000, "a number of 5000 digits"),
    "a number beyond Python's": ("9" * 41, "a number of 41 digits"),
    "no number": ('{"a": NaN}', "NaN is no number"),
    "infinity": ("[-Infinity]", "-Infinity is no number"),
    "a large number": ("1e999", "too large"),
    "not UTF-8": ("\udcff", "not text in UTF-8"),
    "half a character": ('"\\ud800"', "surrogates not allowed"),
    "empty": ("", "not valid JSON"),
    "cut off": ('{"a": 1', "not valid JSON"),
}


@pytest.mark.parametrize("name", JSON)
def test_broken_json_is_one_line(tmp_path: Path, name: str) -> None:
    text, reason = JSON[name]
    path = tmp_path / "a.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=reason) as raised:
        read_json(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300 + len(str(path))


def test_json_as_deep_as_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" * DEEPEST + "]" * DEEPEST)
    assert json.dumps(read_json(path)) == "[" * DEEPEST + "]" * DEEPEST
    with pytest.raises(UserError, match="holds list, expected a JSON object"):
        read_object(path)


def test_a_long_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="is longer than the 1000 bytes"):
        read_text(path, 1000)
    with pytest.raises(UserError, match="is longer than"):
        load_yaml([path])


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


READERS: dict[str, Callable[[Path], object]] = {
    "json": read_json,
    "yaml": lambda path: load_yaml([path]),
    "torch": TorchFile,
    "safetensors": lambda path: tensors([path]),
    "index": lambda path: read_index(path.parent),
    "companion": read_companion,
    "text": lambda path: list(texts_of(str(path))),
    "prompts": lambda path: from_file(str(path), "\n"),
    "data": lambda path: input_files(path),
    "npz": read_arrays,
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path, name: str) -> None:
    suffix = {"safetensors": "a.safetensors", "data": "a.txt", "index": ".metadata"}
    path = fifo(tmp_path / suffix.get(name, "a"))
    # a reader that opens it all the same would wait for ever: something is written after a while
    rescue = threading.Timer(5, lambda: os.open(path, os.O_RDWR | os.O_NONBLOCK))
    rescue.start()
    try:
        with pytest.raises(UserError, match=r"FIFO|no such file"):
            READERS[name](path)
        assert rescue.is_alive()
    finally:
        rescue.cancel()


def test_a_dataset_of_pipes_is_refused(tmp_path: Path) -> None:
    for suffix in (".bin", ".idx"):
        fifo(tmp_path / f"x{suffix}")
    with pytest.raises(UserError, match=r"x\.idx: is a pipe \(FIFO\), expected a file"):
        IndexedDataset(tmp_path / "x")


def test_a_socket_a_device_and_a_folder_are_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        monkeypatch.chdir(tmp_path)  # a socket's path may not be long
        end.bind("s")
        with pytest.raises(UserError, match="is a socket, expected a file"):
            read_json(tmp_path / "s")
    with pytest.raises(UserError, match="is a device"):
        read_json(Path("/dev/zero"))
    with pytest.raises(UserError, match="is a folder"):
        read_json(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path / "absent")


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def npz(path: Path, content: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("tokens.npy", content)
    return path


ARRAYS = {
    "too large": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1099511627776,)}"),
    "too many axes": npy(
        "{'descr': '<i8', 'fortran_order': False, 'shape': (" + "1," * 100 + ")}", bytes(8)
    ),
    "negative": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}", bytes(8)),
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"\x80\x04N."),
    "deep": npy("{'descr': " + "[" * 5000 + "]" * 5000 + "}"),
    "deep without brackets": npy("-" * 9000 + "1"),
    "a header that ends too early": npy("{'descr': ("),
    "a header of nothing": npy("[]"),
    "a version that is none": b"\x93NUMPY\x09\x00\x00\x00",
    "nothing": b"",
}


REASONS = {
    "too large": r"shape \[1099511627776\] in \d+ bytes",
    "negative": r"shape \[-1\]",
    "objects": "objects, not numbers",
}
"""Those that are refused before NumPy makes an array of them."""


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"plain arrays .*{REASONS.get(name, '')}") as raised:
        read_arrays(npz(tmp_path / "a.npz", ARRAYS[name]))
    assert "\n" not in str(raised.value)


def test_an_archive_with_a_password_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", ARRAYS["nothing"])
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"plain arrays .*encrypted"):
        read_arrays(path)


def test_damaged_compression_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", npy("[]", bytes(1000)), zipfile.ZIP_LZMA)
    content = bytearray(path.read_bytes())
    content[44:80] = b"\xff" * 36
    path.write_bytes(content)
    with pytest.raises(UserError, match="plain arrays"):
        read_arrays(path)


def test_a_bomb_of_zeros_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", bytes(300 << 20), zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="bytes that hold 314572800"):
        read_arrays(path)


def test_arrays_are_what_was_saved(tmp_path: Path) -> None:
    a, b = np.arange(6).reshape(2, 3), np.zeros((0, 4), np.float32)
    np.savez_compressed(tmp_path / "a.npz", a=a, b=b.T)
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == {"a", "b"} and (found["a"] == a).all() and found["b"].shape == (4, 0)
    assert read_arrays(tmp_path / "a.npz", ["a", "x"]).keys() == {"a"}
    np.save(tmp_path / "a.npy", a)
    assert (read_arrays(tmp_path / "a.npy")[""] == a).all()
    whole = io.BytesIO()
    np.save(whole, a)
    for length in range(0, len(whole.getvalue()) - 1, 7):
        (tmp_path / "cut").write_bytes(whole.getvalue()[:length])
        with pytest.raises(UserError):
            read_arrays(tmp_path / "cut")
