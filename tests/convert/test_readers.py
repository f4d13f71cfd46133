"""Torch's files without torch: what is read is what was written, or it is refused."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convert.readers.digest import Digests
from convert.readers.torch_file import LazyTensor, TorchFile
from jaxneox.errors import UserError

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8]


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Views, a transpose, shared storage, an empty tensor, a parameter, nested containers."""
    base = torch.arange(24.0).reshape(4, 6)
    content = {
        "whole": base,
        "transposed": base.T,
        "slice": base[1:3, ::2],
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base * 2),
        "nested": [{"scalar": torch.tensor(7)}, (1, "text", None, {2, 3})],
        "numpy": np.arange(3),
        "rng": torch.get_rng_state(),
    }
    content |= {f"as {dtype}": base.to(dtype) for dtype in DTYPES}
    path = tmp_path_factory.mktemp("torch") / "file.pt"
    torch.save(content, path)
    return path


def test_every_kind_of_tensor_reads_as_torch_reads_it(saved: Path) -> None:
    ours, theirs = TorchFile(saved).content, torch.load(saved, weights_only=False)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if isinstance(tensor, torch.Tensor):
            found = ours[name]
            assert isinstance(found, LazyTensor) and found.shape == tuple(tensor.shape)
            assert found.numpy().tobytes() == bits(tensor.detach()), name
    assert ours["nested"][0]["scalar"].numpy() == 7
    assert ours["nested"][1] == (1, "text", None, {2, 3})


def test_views_of_the_file_cannot_be_written(saved: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        TorchFile(saved).content["whole"].numpy()[0, 0] = 1


@settings(max_examples=300, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(at=0.9715567036211367, bit=6)  # a version of zip that zipfile does not know
def test_a_flipped_bit_anywhere_is_refused_or_harmless(saved: Path, at: float, bit: int) -> None:
    whole = saved.read_bytes()
    place = int(at * len(whole))
    damaged = saved.with_name("damaged.pt")
    damaged.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
    try:
        file = TorchFile(damaged)
        found = {n: t for n, t in file.content.items() if isinstance(t, LazyTensor)}
        Digests([file]).results()
    except UserError as error:
        assert "damaged.pt" in str(error) and "\n" not in str(error)
        return
    for name, tensor in TorchFile(saved).content.items():
        if isinstance(tensor, LazyTensor):
            assert found[name].numpy().tobytes() == tensor.numpy().tobytes()


@settings(max_examples=100, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(saved: Path, share: float) -> None:
    short = saved.with_name("short.pt")
    short.write_bytes(saved.read_bytes()[: int(share * saved.stat().st_size)])
    with pytest.raises(UserError, match=r"short\.pt"):
        Digests([TorchFile(short)]).results()


class Storage:
    """What a pickle names as a storage, by torch's convention of persistent ids."""

    def __init__(self, elements: int) -> None:
        self.elements = elements


class Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        if isinstance(value, Storage):
            return ("storage", torch.FloatStorage, "0", "cpu", value.elements)
        return None


class Tensor:
    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __reduce__(self) -> object:
        return torch._utils._rebuild_tensor_v2, self.arguments


@pytest.mark.parametrize(
    ("elements", "offset", "shape", "stride"),
    [
        (8, 0, (3, 3), (3, 1)),  # reaches beyond its storage
        (8, -1, (2,), (1,)),
        (8, 0, (2,), (-1,)),
        (8, 0, (-2,), (1,)),
        (8, 7, (2,), (1,)),
        (9, 0, (2,), (1,)),  # a storage longer than its record
        (8, 0, (1 << 62, 1 << 62), (0, 0)),  # of no bytes and more elements than there are
        (8, 0, (2, 2), (1,)),
    ],
)
def test_a_tensor_outside_of_its_file_is_refused(
    tmp_path: Path, elements: int, offset: int, shape: tuple, stride: tuple
) -> None:
    pickled = io.BytesIO()
    tensor = Tensor(Storage(elements), offset, shape, stride, False, {})
    Pickler(pickled, protocol=2).dump({"x": tensor})
    with zipfile.ZipFile(tmp_path / "odd.pt", "w") as archive:
        archive.writestr("odd/data.pkl", pickled.getvalue())
        archive.writestr("odd/data/0", bytes(32))
    with pytest.raises(UserError, match=r"odd\.pt"):
        TorchFile(tmp_path / "odd.pt").content["x"].numpy()


def test_a_compressed_record_and_an_old_file_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(1000))
    with pytest.raises(UserError, match="compressed"):
        TorchFile(tmp_path / "small.pt")
    old = tmp_path / "old.pt"
    torch.save({"x": torch.ones(2)}, old, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"before 1\.6"):
        TorchFile(old)


def archive(path: Path, pickled: bytes, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", pickled)
        for name, content in records.items():
            file.writestr(f"x/{name}", content)
    return path


BOMBS = {
    "copies of copies": b"\x80\x02]q\x01("
    + b"K\x01" * 20000
    + b"e0("
    + b"cbuiltins\nlist\n(h\x01tR" * 1200
    + b"t.",
    "a dtype's own state": b"\x80\x02ctorch\nBFloat16Storage\n"
    b"(K\x03X\x01\x00\x00\x00<NNNK\x01K\x01K\x00tb.",
    "doubling": b"\x80\x02(K\x01K\x01tq\x01"
    + b"".join(b"0(h%ch%ctq%c" % (i, i, i + 1) for i in range(1, 30))
    + b"Q.",
    "opcodes of nothing": b"\x80\x02" + b"0" * 100,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_that_wants_memory_or_time_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"bomb\.pt") as refused:
        _ = TorchFile(archive(tmp_path / "bomb.pt", BOMBS[name])).content
    assert len(str(refused.value)) < 1000


def test_numbers_of_another_byte_order_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "big.pt", pickle.dumps({}, 2), byteorder=b"big")
    with pytest.raises(UserError, match="little-endian"):
        _ = TorchFile(path).content


def test_a_record_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "twice.pt", pickle.dumps({}, 2))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as file:
        file.writestr("x/data.pkl", pickle.dumps({"a": 1}, 2))
    with pytest.raises(UserError, match="twice"):
        TorchFile(path)
