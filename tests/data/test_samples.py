"""Rows: windows of the joined documents, whole documents, labels; what is refused."""

import pathlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxneox.config.data_schema import DataConfig, DataSource
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.megatron import megatron_samples
from jaxneox.data.neox import neox_samples, packed_samples, packing
from jaxneox.data.sample_request import SampleRequest
from jaxneox.data.samples import Blend, IndexedSamples, locate
from jaxneox.data.writer import IndexedWriter
from jaxneox.errors import UserError

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)
MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(SIZES, st.integers(1, 7), st.integers(1, 40), st.integers(0, 5))
@MANY
def test_packed_are_windows_of_the_joined_documents(
    tmp_path: pathlib.Path, sizes: list[int], seq_length: int, count: int, seed: int
) -> None:
    dataset = numbered(tmp_path / "x", sizes)
    samples = packed_samples(
        dataset, None, range(len(sizes)), SampleRequest("train", count, seq_length, seed)
    )
    epochs = len(samples.index.doc_idx) // len(sizes)
    # Two shuffles of one generator, documents of all epochs first: written out slowly.
    rng = np.random.RandomState(seed)
    order = np.array(list(range(len(sizes))) * epochs, np.int32)
    rng.shuffle(order)
    stream = [100 * int(d) + k for d in order for k in range(sizes[d])]
    starts = range(0, len(stream) - seq_length, seq_length)
    shuffled = np.arange(len(starts), dtype=np.uint32)
    rng.shuffle(shuffled)
    assert samples.index.sample_idx[0].tolist() == [0, 0]  # even where document 0 is empty
    assert len(samples) == len(starts) - 1 and len(starts) >= count
    assert epochs == 1 or (len(stream) - sum(sizes) - 1) // seq_length < count
    found = samples.read(np.arange(len(shuffled))).tokens
    for i, j in enumerate(shuffled):
        window = stream[starts[j] : starts[j] + seq_length + 1]
        assert found[i].tolist() == window
        where = locate(samples, i, seq_length)
        assert f"token {window[-1] % 100} of document {window[-1] // 100}," in where


@given(SIZES, st.integers(1, 7), st.integers(1, 40), st.booleans(), st.booleans())
@MANY
def test_megatron_windows(
    tmp_path: pathlib.Path, sizes: list[int], seq_length: int, count: int, extra: bool, keep: bool
) -> None:
    """Every window of the stream once; the last one filled where it is kept."""
    if sum(sizes) <= extra or (keep and not sizes[-1]):
        return
    dataset = numbered(tmp_path / "x", sizes)
    data = DataConfig(path=str(dataset.prefix), split="0,1,0", extra_token=extra,
                      keep_partial_validation=keep)  # fmt: skip
    samples = megatron_samples(data, SampleRequest("valid", count, seq_length, 3), IndexedDataset)
    assert isinstance(samples, IndexedSamples)
    stream = [100 * int(d) + k for d in samples.index.doc_idx for k in range(sizes[d])]
    whole = [
        stream[at : at + seq_length + extra] for at in range(0, len(stream) - extra, seq_length)
    ]
    partial = [row for row in whole if len(row) < seq_length + extra]
    expected = whole if keep else whole[: len(whole) - len(partial)]
    rows = [row + [-1] * (seq_length + 1 - len(row)) for row in expected]
    found = samples.read(np.arange(len(samples))).tokens.tolist()
    assert sorted(found) == sorted(rows)


@given(
    SIZES, st.integers(1, 7), st.integers(1, 30), st.integers(0, 5), st.booleans(),
    st.lists(st.booleans(), min_size=12, max_size=12),
)  # fmt: skip
@MANY
def test_overflow_walked_slowly(
    tmp_path: pathlib.Path,
    sizes: list[int],
    seq_length: int,
    count: int,
    seed: int,
    allow_chopped: bool,
    masked: list[bool],
) -> None:
    dataset = numbered(tmp_path / "x", sizes)
    labels = numbered(tmp_path / "y", sizes, masked)
    useful = [
        bool(size) and not masked[d] and (allow_chopped or size <= seq_length + 1)
        for d, size in enumerate(sizes)
    ]
    data = DataConfig(pack="pack_until_overflow", allow_chopped=allow_chopped)
    wanted = SampleRequest("train", count, seq_length, seed)
    if not any(useful):
        with pytest.raises(UserError, match=r"x\.bin: none of \d+ documents can be used"):
            packing(data, wanted, dataset, labels)
        return
    samples = packing(data, wanted, dataset, labels)
    rng = np.random.RandomState(seed)
    shuffled, order = np.arange(count), np.arange(len(sizes))
    rng.shuffle(shuffled)
    rng.shuffle(order)
    documents: list[int] = []
    begins: list[int] = []
    at = filled = 0
    while len(begins) < count:
        if at == len(order):
            at = 0
            rng.shuffle(order)
        d = int(order[at])
        at += 1
        if not useful[d]:
            continue
        if not filled or filled + sizes[d] > seq_length + 1:
            begins.append(len(documents))
            filled = 0
        filled += sizes[d]
        documents.append(d)
    assert samples.index.doc_idx.tolist() == documents
    assert samples.index.sample_idx.tolist() == [[k, 0] for k in [*begins, len(documents)]]
    assert samples.index.shuffle_idx.tolist() == shuffled.tolist()


def test_past_the_end_it_counts_modulo_its_length(tmp_path: pathlib.Path) -> None:
    samples = small(tmp_path)
    n = len(samples)
    assert n == 4
    rows = samples.read(np.arange(n + 3)).tokens.tolist()
    assert rows[n] not in rows[:n]  # the sample that a sampler never reaches, but a blend can
    assert rows[n + 1 :] == [rows[(n + 1) % n], rows[(n + 2) % n]]


def test_whole_documents_take_one_token_of_the_next(tmp_path: pathlib.Path) -> None:
    dataset = numbered(tmp_path / "x", [3, 2, 9])
    labels = numbered(tmp_path / "y", [3, 2, 9])
    samples = packing(DataConfig(pack="unpacked"), SampleRequest("train", 5, 4, 0), dataset, labels)
    by_document = {0: [0, 1, 2, 100, 0], 1: [100, 101, 200, 0, 0], 2: [200, 201, 202, 203, 204]}
    rows = samples.read(np.arange(4))
    assert rows.counted is not None
    documents = samples.index.doc_idx[samples.index.shuffle_idx[:4]]
    for row, counted, document in zip(rows.tokens, rows.counted, documents, strict=True):
        assert row.tolist() == by_document[document]
        assert (
            counted.tolist() == [True] * 4 + [document == 2]
            if document != 1
            else (counted.tolist() == [True] * 3 + [False] * 2)
        )


def test_a_blend_reads_what_its_datasets_read(tmp_path: pathlib.Path) -> None:
    one, other = small(tmp_path / "a"), small(tmp_path / "b", add=20)
    blend = Blend([one, other], np.array([0, 1, 1, 0]), np.array([0, 0, 2, 1]), {})
    rows = blend.read(np.array([3, 0, 2])).tokens
    expected = [one.read(np.array([k])).tokens[0] for k in (1, 0)]
    np.testing.assert_array_equal(rows[:2], expected)
    np.testing.assert_array_equal(rows[2:], other.read(np.array([2])).tokens)
    assert "b/x.bin: token" in locate(blend, 2, 1)


def test_fingerprint_follows_the_order_not_the_number_asked_for(tmp_path: pathlib.Path) -> None:
    same = small(tmp_path).fingerprint()
    assert small(tmp_path, num_samples=5).fingerprint() == same
    for change in ({"num_samples": 6}, {"seq_length": 2}, {"seed": 2}, {"add": 1}):
        assert small(tmp_path, **change).fingerprint() != same, change


def test_fingerprint_knows_every_file_and_part(tmp_path: pathlib.Path) -> None:
    """Text and labels of one name, a dataset called as a setting, another part of the file."""
    sizes = [3, 2, 4, 2]
    labels = numbered(tmp_path / "labels" / "x", sizes, [True, False, False, False])
    prints = []
    for add in (0, 7):  # only what the labels mask is another text
        text = numbered(tmp_path / f"text{add}" / "x", sizes)
        tokens = np.fromfile(str(text.bin_path), np.int32)
        tokens[:3] += add
        tokens.tofile(str(text.bin_path))
        samples = packing(
            DataConfig(), SampleRequest("train", 1, 3, 0), IndexedDataset(text.prefix), labels
        )
        prints.append(samples.fingerprint())
    assert prints[0] != prints[1]
    named = numbered(tmp_path / "seed", sizes)
    one, other = (
        packed_samples(named, None, range(4), SampleRequest("train", 1, 3, seed)) for seed in (1, 2)
    )
    assert one.fingerprint() != other.fingerprint()
    overflow = DataConfig(pack="pack_until_overflow")
    request = SampleRequest("train", 9, 3, 0)
    one, other = (packing(overflow, request, named, None, range(end)) for end in (2, 3))
    assert one.fingerprint() != other.fingerprint()


def test_no_document_of_a_part_is_of_use(tmp_path: pathlib.Path) -> None:
    dataset = numbered(tmp_path / "x", [9, 2, 2, 2])
    data = DataConfig(pack="pack_until_overflow", allow_chopped=False)
    with pytest.raises(UserError, match=r"none of 1 documents can be used"):
        packing(data, SampleRequest("valid", 3, 3, 0), dataset, None, range(3, 4))


def test_blends_without_a_sample(tmp_path: pathlib.Path) -> None:
    short, long = (str(numbered(tmp_path / f"{size}", [size]).prefix) for size in (4, 30))
    halves = DataConfig(
        train=DataSource((short, short))
    )  # one sample of each, which NeoX leaves out
    with pytest.raises(UserError, match="none of 2 datasets has two samples of seq-length 3"):
        neox_samples(halves, SampleRequest("train", 1, 3, 0), IndexedDataset)
    both = DataConfig(train=DataSource((short, long)), order="megatron")
    with pytest.raises(UserError, match=r"/4: has not one sample in its part"):
        megatron_samples(both, SampleRequest("train", 2, 5, 0), IndexedDataset)


def test_no_tokens(tmp_path: pathlib.Path) -> None:
    dataset = numbered(tmp_path / "x", [0])
    with pytest.raises(UserError, match=r"x\.bin: documents 0 to 1 have no tokens"):
        packed_samples(dataset, None, range(1), SampleRequest("train", 1, 2, 0))


def test_labels_of_another_text(tmp_path: pathlib.Path) -> None:
    dataset = numbered(tmp_path / "x", [3, 2])
    wanted = SampleRequest("train", 1, 2, 0)
    with pytest.raises(UserError, match=r"y\.idx: 1 sequences, but .*x\.idx has 2"):
        packing(DataConfig(), wanted, dataset, numbered(tmp_path / "y", [3]))
    with pytest.raises(UserError, match=r"y\.idx: 3 tokens in sequence 1, but .*x\.idx has 2"):
        packing(DataConfig(), wanted, dataset, numbered(tmp_path / "y", [3, 3]))
    other = numbered(tmp_path / "y", [3, 2], add=1)
    samples = packing(DataConfig(), SampleRequest("train", 1, 4, 0), dataset, other)
    with pytest.raises(UserError, match=r"y\.bin: token \d of document \d, byte \d+, is \d+, the"):
        samples.read(np.array([0]))


def test_a_label_below_0_masks_only_as_minus_100(tmp_path: pathlib.Path) -> None:
    dataset = numbered(tmp_path / "x", [3, 2])
    for label in (-1, -99):
        with IndexedWriter(tmp_path / "y", np.int32) as out:
            out.add([0, label, 2])
            out.add([100, 101])
        labels = IndexedDataset(tmp_path / "y")
        samples = packing(DataConfig(), SampleRequest("train", 1, 4, 0), dataset, labels)
        with pytest.raises(UserError, match=rf"is {label}, the token there is 1; .*, or -100"):
            samples.read(np.array([0]))


def test_unpacked_needs_labels(tmp_path: pathlib.Path) -> None:
    data = DataConfig(path=str(numbered(tmp_path / "x", [3]).prefix), pack="unpacked", split="1")
    with pytest.raises(UserError, match="pack-impl: unpacked needs labels"):
        neox_samples(data, SampleRequest("train", 1, 2, 0), IndexedDataset)


def numbered(
    prefix: pathlib.Path, sizes: list[int], masked: list[bool] | None = None, add: int = 0
) -> IndexedDataset:
    """Token k of document d is 100 d + k, or -100 where the document is masked."""
    prefix.parent.mkdir(exist_ok=True)
    with IndexedWriter(prefix, "int32") as out:
        for document, size in enumerate(sizes):
            hidden = masked is not None and masked[document]
            out.add([-100 if hidden else 100 * document + k + add for k in range(size)])
    return IndexedDataset(prefix)


def small(folder: pathlib.Path, add: int = 0, **changes: Any) -> IndexedSamples:
    """16 tokens in 3 documents, 5 samples of 3 + 1 tokens."""
    dataset = numbered(folder / "x", [5, 1, 10], add=add)
    wanted = SampleRequest("train", 1, 3, 1)._replace(**changes)
    return packed_samples(dataset, None, range(3), wanted)
