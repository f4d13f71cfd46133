"""Parts of a corpus, numbers of epochs, sizes of batches, and the cache of large indices."""

import pathlib
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxneox.data.batches import BatchSizes
from jaxneox.data.order import cache, packed
from jaxneox.data.order.packed import epochs_needed, megatron_packed, neox_packed
from jaxneox.data.order.split import split_documents, split_sequences
from jaxneox.errors import UserError


def test_epochs_are_the_fewest_that_suffice() -> None:
    for tokens in range(1, 12):
        for seq_length in range(1, 6):
            for num_samples in range(1, 12):
                epochs = epochs_needed(num_samples, tokens, seq_length)
                assert (epochs * tokens - 1) // seq_length >= num_samples
                assert epochs == 1 or ((epochs - 1) * tokens - 1) // seq_length < num_samples


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = np.random.default_rng(0).integers(0, 40, 500).astype(np.int32)
    documents = range(100, 500)

    def made() -> list[np.ndarray]:
        neox = neox_packed(sizes, documents, epochs=3, seq_length=7, seed=1)
        megatron = megatron_packed(sizes, documents, num_samples=2900, seq_length=7, seed=1)
        return [*neox, *megatron]

    whole = made()
    monkeypatch.setattr(packed, "CHUNK", 64)
    for one, other in zip(whole, made(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("split", "size", "neox", "megatron"),
    [
        ("900,50,50", 245, [221, 233, 245], [220, 233, 245]),
        ("8/1/1", 10, [8, 9, 10], [8, 9, 10]),
        ("969, 30, 1", 245, [238, 245, 245], [237, 245, 245]),
        ("1", 3, [3, 3, 3], [3, 3, 3]),
        ("0.7,0.2,0.1", 5, [3, 4, 5], [4, 5, 5]),  # neox: [4, 5, 5] if summed exactly
        ("0,1,1", 3, [0, 1, 3], [0, 2, 3]),
    ],
)
def test_split_bounds(split: str, size: int, neox: list[int], megatron: list[int]) -> None:
    for function, bounds in ((split_documents, neox), (split_sequences, megatron)):
        parts = function(split, size)
        assert [part.stop for part in parts] == bounds
        assert sum(map(len, parts)) == size


@pytest.mark.parametrize("split", ["", "a,b", "0,0,0", "0,0,0,4", "1,-1,1", "nan", "inf,1"])
def test_wrong_split(split: str) -> None:
    with pytest.raises(UserError, match=r"^split: "):
        split_documents(split, 10)


@given(
    st.integers(1, 6), st.integers(1, 5), st.integers(0, 6), st.integers(1, 500),
)  # fmt: skip
def test_ramp_grows_as_megatron_counts(start: int, inc: int, times: int, samples: int) -> None:
    size = start + times * inc
    sizes = BatchSizes(size, (start, inc, samples))
    taken = 0
    for step in range(120):
        assert sizes.first(step) == taken
        grown = times if taken > samples or not times else int(taken / (samples / times))
        assert sizes.size(step) == min(size, start + grown * inc)
        taken += sizes.size(step)


def test_one_size() -> None:
    sizes = BatchSizes(1024)
    assert (sizes.size(142999), sizes.first(142999)) == (1024, 142999 * 1024)


def test_an_index_is_kept_and_found(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache, "SMALL", 3)
    arrays = [np.arange(5, dtype=np.int32), np.ones((2, 2), np.uint32)]
    calls = []

    def build() -> list[np.ndarray]:
        calls.append(1)
        return arrays

    for key, count in (({"seed": 1}, 1), ({"seed": 1}, 1), ({"seed": 2}, 2)):
        found = cache.kept(tmp_path / "x", key, 5, build)
        assert len(calls) == count
        for one, other in zip(found, arrays, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    assert capsys.readouterr().err.count("built the index of") == 2
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 2 and all(folder.name.startswith("x.index-") for folder in folders)
    # One that is cut short is built again.
    for folder in folders:
        (folder / "0.npy").write_bytes((folder / "0.npy").read_bytes()[:20])
    found = cache.kept(tmp_path / "x", {"seed": 1}, 5, build)
    np.testing.assert_array_equal(found[0], arrays[0])
    assert len(calls) == 3
    for folder in folders:  # one that has lost an array too
        (folder / "1.npy").unlink()
    assert len(cache.kept(tmp_path / "x", {"seed": 1}, 5, build)) == 2
    assert len(calls) == 4
    capsys.readouterr()
    for folder in folders:  # one in which a bit has flipped: another order, which nothing else sees
        content = (folder / "0.npy").read_bytes()
        (folder / "0.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = cache.kept(tmp_path / "x", {"seed": 1}, 5, build)
    np.testing.assert_array_equal(found[0], arrays[0])
    assert "is damaged: making it again" in capsys.readouterr().err
    (folders[0] / cache.COUNT).write_text("2")  # as earlier versions wrote it
    (folders[1] / cache.COUNT).write_text("2")
    cache.kept(tmp_path / "x", {"seed": 1}, 5, build)
    assert len(calls) == 5
    cache.kept(tmp_path / "x", {"seed": 3}, 2, build)  # too small to keep
    assert sorted(tmp_path.iterdir()) == folders


def test_where_the_data_cannot_be_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SMALL", 3)
    monkeypatch.setenv("JAXNEOX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "file").write_text("no folder")
    found = cache.kept(tmp_path / "file" / "x", {}, 5, lambda: [np.arange(5)])
    assert isinstance(found[0], np.memmap)
    names = sorted(path.name for path in (tmp_path / "cache").glob("*/*"))
    assert names == ["0.npy", cache.COUNT]


def test_many_build_at_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SMALL", 3)
    together = threading.Barrier(4)
    found = []

    def build() -> list[np.ndarray]:
        together.wait(10)
        return [np.arange(1000)]

    def ask() -> None:
        found.append(cache.kept(tmp_path / "x", {}, 1000, build)[0].sum())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [499500] * 4
    assert len(list(tmp_path.iterdir())) == 1
