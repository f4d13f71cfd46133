"""The packed order: NeoX's arrays byte for byte, and a slow walk over small cases."""

import hashlib
import pathlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.samples import PackedSamples, epochs_needed, pack, split_documents
from jaxneox.data.writer import IndexedWriter
from jaxneox.errors import UserError

# npz: split, num_samples of train, valid, test (None: one epoch), S, seed
SPLIT_CASES = {
    "packed_multi_epoch": ("900,50,50", (1200, 60, 40), 128, 1234),
    "packed_one_epoch": ("900,50,50", (300, 10, 10), 128, 1234),
    "packed_train_epochs1": ("900,50,50", (None, None, None), 128, 1234),
    "packed_seed42_seq64_split_8_1_1": ("8,1,1", (2500, 100, 100), 64, 42),
    "packed_split_969_30_1": ("969, 30, 1", (700, 20, 5), 128, 1234),
    "packed_seq2048": ("900,50,50", (64, 2, 2), 2048, 1234),
    "packed_no_chop": ("900,50,50", (1200, 60, 40), 128, 1234),
}
# npz: corpus, num_samples, S; all documents
WHOLE_CASES = {
    "packed_ac_a": ("a", 200, 128),
    "packed_noac_a": ("a", 200, 128),
    "packed_ac_q": ("q", 200, 128),
    "packed_noac_q": ("q", 200, 128),
    "packed_ac_q_label": ("q", 200, 128),
    "packed_noac_q_label": ("q", 200, 128),
    "packed_boundary_seq144_ns446": ("a", 446, 144),
    "packed_boundary_seq144_ns447": ("a", 447, 144),
}


@pytest.mark.parametrize("name", SPLIT_CASES)
def test_split_is_neox(shared: pathlib.Path, name: str) -> None:
    golden = load(shared, name)
    split, counts, seq_length, seed = SPLIT_CASES[name]
    dataset = corpus(shared, "a")
    parts = split_documents(split, len(dataset))
    for part, documents, count in zip(("train", "valid", "test"), parts, counts, strict=True):
        if not documents:
            assert f"{part}_text" not in golden
            continue
        samples = (
            PackedSamples(dataset, documents, epochs=1, seq_length=seq_length, seed=seed)
            if count is None
            else pack(dataset, documents, num_samples=count, seq_length=seq_length, seed=seed)
        )
        compare(samples, golden, f"{part}_")


@pytest.mark.parametrize("name", WHOLE_CASES)
def test_whole_is_neox(shared: pathlib.Path, name: str) -> None:
    letter, count, seq_length = WHOLE_CASES[name]
    dataset = corpus(shared, letter)
    samples = pack(
        dataset, range(len(dataset)), num_samples=count, seq_length=seq_length, seed=1234
    )
    compare(samples, load(shared, name), "")


def test_every_packed_golden_is_a_case(shared: pathlib.Path) -> None:
    found = {path.stem for path in (shared / "golden" / "data" / "neox").glob("packed_*.npz")}
    assert found <= SPLIT_CASES.keys() | WHOLE_CASES.keys()


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    st.integers(1, 7),
    st.integers(1, 40),
    st.integers(0, 5),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_samples_are_windows_of_the_joined_documents(
    tmp_path: pathlib.Path, sizes: list[int], seq_length: int, num_samples: int, seed: int
) -> None:
    with IndexedWriter(tmp_path / "x", "int32") as out:
        for document, size in enumerate(sizes):
            out.add([100 * document + k for k in range(size)])
    dataset = IndexedDataset(tmp_path / "x")
    samples = pack(
        dataset, range(len(sizes)), num_samples=num_samples, seq_length=seq_length, seed=seed
    )
    # Two shuffles of one generator, documents of all epochs first: written out slowly.
    rng = np.random.RandomState(seed)
    order = np.array(list(range(len(sizes))) * samples.epochs, np.int32)
    rng.shuffle(order)
    stream = [100 * int(d) + k for d in order for k in range(sizes[d])]
    starts = range(0, len(stream) - seq_length, seq_length)
    shuffled = np.arange(len(starts), dtype=np.uint32)
    rng.shuffle(shuffled)
    assert samples.sample_idx[0].tolist() == [0, 0]  # even where document 0 is empty
    assert len(samples) == len(starts) - 1 and len(starts) >= num_samples
    assert samples.epochs == 1 or (len(stream) - sum(sizes) - 1) // seq_length < num_samples
    for i, j in enumerate(shuffled):
        window = stream[starts[j] : starts[j] + seq_length + 1]
        assert samples.sample(i).tolist() == window
        where = samples.locate(i, seq_length)
        assert where.endswith(f"document {window[-1] // 100}, token {window[-1] % 100}")


def test_past_the_end_it_counts_modulo_its_length(tmp_path: pathlib.Path) -> None:
    samples = small(tmp_path)
    n = len(samples)
    assert n == 4
    rows = [samples.sample(i).tolist() for i in range(n + 3)]
    assert rows[n] not in rows[:n]  # the sample that a sampler never reaches, but a blend can
    assert rows[n + 1 :] == [rows[(n + 1) % n], rows[(n + 2) % n]]


def test_epochs_are_the_fewest_that_suffice() -> None:
    for tokens in range(1, 12):
        for seq_length in range(1, 6):
            for num_samples in range(1, 12):
                epochs = epochs_needed(num_samples, tokens, seq_length)
                assert (epochs * tokens - 1) // seq_length >= num_samples
                assert epochs == 1 or ((epochs - 1) * tokens - 1) // seq_length < num_samples


@pytest.mark.parametrize(
    ("split", "size", "bounds"),
    [
        ("900,50,50", 245, [221, 233, 245]),
        ("8/1/1", 10, [8, 9, 10]),
        ("969, 30, 1", 245, [238, 245, 245]),
        ("1", 3, [3, 3, 3]),
        ("0.7,0.2,0.1", 5, [3, 4, 5]),  # [4, 5, 5] if the shares were summed exactly
        ("0,1,1", 3, [0, 1, 3]),
    ],
)
def test_split_bounds(split: str, size: int, bounds: list[int]) -> None:
    parts = split_documents(split, size)
    assert [part.stop for part in parts] == bounds
    assert sum(map(len, parts)) == size


@pytest.mark.parametrize("split", ["", "a,b", "0,0,0", "1,2,3,4", "1,-1,1", "nan", "inf,1"])
def test_wrong_split(split: str) -> None:
    with pytest.raises(UserError, match=r"^split: "):
        split_documents(split, 10)


def test_fingerprint_follows_the_order_not_the_number_asked_for(tmp_path: pathlib.Path) -> None:
    one = small(tmp_path)
    dataset, documents = one.dataset, one.documents
    more = pack(dataset, documents, num_samples=5, seq_length=3, seed=1)
    assert one.fingerprint() == more.fingerprint()
    for change in ({"num_samples": 6}, {"seq_length": 2}, {"seed": 2}):
        other = pack(dataset, documents, **{"num_samples": 1, "seq_length": 3, "seed": 1, **change})
        assert other.fingerprint() != one.fingerprint(), change
    first, second = (
        PackedSamples(dataset, part, epochs=9, seq_length=3, seed=1)
        for part in (range(1), range(1, 2))
    )
    assert first.fingerprint() != second.fingerprint()


def test_no_tokens(tmp_path: pathlib.Path) -> None:
    with IndexedWriter(tmp_path / "x", "uint16") as out:
        out.add([])
    with pytest.raises(UserError, match=r"x\.bin: documents 0 to 1 have no tokens"):
        pack(IndexedDataset(tmp_path / "x"), range(1), num_samples=1, seq_length=2, seed=0)


def test_floats_are_no_tokens(tmp_path: pathlib.Path) -> None:
    with IndexedWriter(tmp_path / "x", "float32") as out:
        out.add([0.5])
    with pytest.raises(UserError, match=r"x\.idx: holds float32 numbers"):
        pack(IndexedDataset(tmp_path / "x"), range(1), num_samples=1, seq_length=2, seed=0)


def small(folder: pathlib.Path) -> PackedSamples:
    """16 tokens in 3 documents, 5 samples of 3 + 1 tokens."""
    with IndexedWriter(folder / "x", "uint16") as out:
        for document in ([1, 2, 3, 4, 5], [6], [7, 8, 9, 10, 11, 12, 13, 14, 15, 16]):
            out.add(document)
    return pack(IndexedDataset(folder / "x"), range(3), num_samples=1, seq_length=3, seed=1)


def corpus(shared: pathlib.Path, letter: str) -> IndexedDataset:
    return IndexedDataset(
        shared / "golden" / "data" / "corpora" / f"neox_corpus_{letter}_text_document"
    )


def load(shared: pathlib.Path, name: str) -> dict[str, np.ndarray]:
    path = shared / "golden" / "data" / "neox" / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not among the golden cases here")
    with np.load(path) as arrays:
        return dict(arrays)


def compare(samples: PackedSamples, golden: dict[str, np.ndarray], prefix: str) -> None:
    for name in ("doc_idx", "sample_idx", "shuffle_idx"):
        found = getattr(samples, name)
        assert found.dtype == golden[prefix + name].dtype
        np.testing.assert_array_equal(found, golden[prefix + name], err_msg=name)
    assert len(samples) == golden[prefix + "len"]
    rows = np.stack([samples.sample(i) for i in range(len(samples))])
    assert rows.dtype == np.int64
    text = golden[prefix + "text"]
    np.testing.assert_array_equal(rows[: len(text)], text)
    assert hashlib.sha256(rows.tobytes()).hexdigest() == golden[prefix + "all_text_sha256"]
