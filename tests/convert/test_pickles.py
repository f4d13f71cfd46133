"""Pickles are read as Python reads them, and the hostile are refused at once, whoever asks."""

import gc
import pickle
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convert.inspection.megatron_files import read_index, read_torch
from convert.readers.pickles import Unpickler
from convert.readers.torch_dist import DistFolder
from convert.readers.torch_file import TorchFile
from jaxneox.errors import UserError
from tests.convert.test_readers import archive

PLAIN: list[Any] = [
    {"a": [1, -2, 2**31, -(2**33), 2**63, 10**40], 3: (1.5, float("inf"), True, None)},
    OrderedDict(x=b"bytes", y="text \N{SNOWMAN} \n\x00"),
    [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {1, "a"}, frozenset({2}), slice(1, None)],
    {("a", 1): False, None: {}, -5: [[], [[]]]},
    "x" * 70000,
    [b"y" * 300, bytes(70000)],
    list(range(2000)),
]


def unpickled(content: bytes) -> Any:
    def refuse(*_: Any) -> None:
        raise ValueError("a tensor")

    return Unpickler(content, "file.pt", refuse, refuse).load()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read_as_python_reads_them(protocol: int) -> None:
    for value in PLAIN:
        if protocol < 3 and b"bytes" in pickle.dumps(value, 4):
            continue  # older protocols call a codec for bytes, which is not read
        if protocol > 2 or not any(type(part) is bytes for part in value):
            found = unpickled(pickle.dumps(value, protocol))
            assert found == value and type(found) is type(value)


def doubled(kind: bytes, start: bytes, times: int = 60) -> bytes:
    """A container that holds another one twice, and so on, by the opcode `kind`."""
    levels = (b"h" + bytes([i]) * 1 + b"h" + bytes([i]) + kind for i in range(1, times))
    parts = [b"0" + level + b"q" + bytes([i + 2]) for i, level in enumerate(levels)]
    return start + b"q\x01" + b"".join(parts)


TUPLES = doubled(b"\x86", b"K\x01K\x01\x86")
LISTS = b"]q\x01" + b"".join(b"0](h%ch%ceq%c" % (i, i, i + 1) for i in range(1, 60))
HEAD = b"\x80\x02"


def called(name: bytes, arguments: bytes) -> bytes:
    return b"c" + name + b"\n" + arguments + b"R"


HOSTILE = {
    "a key": b"}" + TUPLES + b"K\x01s",
    "several keys": b"}(" + TUPLES + b"K\x01u",
    "a dict of what is marked": b"(" + TUPLES + b"K\x01d",
    "a frozen set": b"(" + TUPLES + b"\x91",
    "an element of a set": b"\x8f(" + TUPLES + b"\x90",
    "a set that is called": called(b"builtins\nset", b"](" + TUPLES + b"e\x85"),
    "a frozen set that is called": called(b"builtins\nfrozenset", TUPLES + b"\x85"),
    "a dict that is called": called(b"builtins\ndict", b"](" + TUPLES + b"K\x01\x86e\x85"),
    "an ordered dict": called(b"collections\nOrderedDict", b"](" + TUPLES + b"K\x01\x86e\x85"),
    "an old name of a set": called(b"__builtin__\nset", b"](" + TUPLES + b"e\x85"),
    "a key of many": b"}(" + b"K\x01" * 9 + b"tK\x01s",
    "keys of one hash": b"}\x8a\x09" + (2**64).to_bytes(9, "little") + b"K\x01s",
    "a frozen set as a key": b"}(\x91K\x01s",
    "bytes as a key": b"}C\x01aK\x01s",
    "the value": TUPLES,
    "lists": LISTS,
    "a state": b"cargparse\nNamespace\n)\x81" + TUPLES + b"b",
    "arguments": b"cargparse\nNamespace\n" + TUPLES + b"\x81",
    "a bound of a slice": called(b"builtins\nslice", TUPLES + b"\x85"),
    "in itself": b"]q\x01h\x01a",
    "deep": b")" + b"\x85" * 100000,
    "deep lists": b"]" * 1000 + b"a" * 999,
    "a deep key": b"})" + b"\x85" * 100000 + b"K\x01s",
    "a long number": b"\x8b\x00\x00\x01\x00" + b"\x7f" * 65536,
    "a long number as text": b"L" + b"9" * 4000 + b"L\n",
    "a long number of protocol 0": b"I" + b"9" * 4000 + b"\n",
    "bytes that are not there": b"\x8e" + b"\xff" * 8,
    "text that is not there": b"X\xff\xff\xff\x7f",
    "an extension": b"\x82\x01",
    "a buffer that lies elsewhere": b"\x97",
    "state of a text": b"X\x01\x00\x00\x00aNb",
    "a call of a text": b"X\x01\x00\x00\x00a)R",
    "no mark": b"K\x01K\x01t",
    "an unknown memo": b"h\x05",
    "a far memo": b"Nr\x00\x84\xd7\x17",
    "memos of one hash": b"N" + b"".join(b"p%d\n" % (k * ((1 << 61) - 1)) for k in range(1, 30000)),
    "a memo below the first": b"Np-1\n",
    "an empty stack": b"",
}


def in_torch_file(folder: Path, content: bytes) -> None:
    _ = TorchFile(archive(folder / "file.pt", content)).content


def in_facts(folder: Path, content: bytes) -> None:
    with archive(folder / "file.pt", content).open("rb") as file:
        read_torch(file, folder / "file.pt")


def in_index(folder: Path, content: bytes) -> None:
    (folder / ".metadata").write_bytes(content)
    DistFolder(folder)


def in_facts_of_an_index(folder: Path, content: bytes) -> None:
    (folder / ".metadata").write_bytes(content)
    read_index(folder)


@pytest.mark.parametrize("read", [in_torch_file, in_facts, in_index, in_facts_of_an_index])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_at_once(
    tmp_path: Path, name: str, read: Callable[[Path, bytes], None]
) -> None:
    gc.freeze()  # else what other tests have left is looked through each time
    began = time.thread_time()
    with pytest.raises(UserError, match=str(tmp_path)) as refused:
        read(tmp_path, HEAD + HOSTILE[name] + b".")
    taken = time.thread_time() - began
    gc.unfreeze()
    assert "\n" not in (line := str(refused.value)) and len(line) < 500 + len(str(tmp_path))
    assert taken < 2


def test_a_pickle_takes_no_more_steps_than_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opcodes that make no object, such as the one that doubles the top of the stack, count too."""
    monkeypatch.setattr("convert.readers.pickle_opcodes.STEPS", 100)
    assert unpickled(HEAD + b"](" + b"N2" * 40 + b"e.") == [None] * 80
    with pytest.raises(ValueError, match="more than 100 operations"):
        unpickled(HEAD + b"](N" + b"2" * 100 + b"e.")
