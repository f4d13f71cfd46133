"""NeoX's order: every array of its index, every row, every label."""

import pathlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jaxneox.config.data_schema import DataConfig, DataSource
from jaxneox.data import neox
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.sample_request import SampleRequest
from jaxneox.data.samples import IndexedSamples
from tests.data import golden

# Samples of train, valid and test, and what is not the default.
SPLITS: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "packed_multi_epoch": ((1200, 60, 40), {}),
    "packed_one_epoch": ((300, 10, 10), {}),
    "packed_train_epochs1": ((1, 1, 1), {}),
    "packed_seed42_seq64_split_8_1_1": (
        (2500, 100, 100), {"seed": 42, "seq_length": 64, "split": "8,1,1"},
    ),
    "packed_split_969_30_1": ((700, 20, 5), {"split": "969, 30, 1"}),
    "packed_seq2048": ((64, 2, 2), {"seq_length": 2048}),
    "packed_no_chop": ((1200, 60, 40), {"allow_chopped": False}),
    "overflow_split_ac1": ((100, 20, 10), {"pack": "pack_until_overflow"}),
}  # fmt: skip

# Corpus, samples, and what is not the default.
WHOLE: dict[str, tuple[str, int, dict[str, Any]]] = {
    "packed_boundary_seq144_ns446": ("a", 446, {"seq_length": 144}),
    "packed_boundary_seq144_ns447": ("a", 447, {"seq_length": 144}),
} | {
    f"{pack}_{chopped}_{which}": (
        which[0],
        200,
        {"pack": pack, "allow_chopped": chopped == "ac", "labels": which.endswith("label")},
    )
    for pack in ("packed", "pack_until_overflow", "unpacked")
    for chopped in ("ac", "noac")
    for which in ("a", "q", "q_label")
    if pack != "unpacked" or which == "q_label"
}
WHOLE |= {
    f"pack_until_overflow_noac_a_seed{seed}": (
        "a", 40, {"pack": "pack_until_overflow", "allow_chopped": False, "seed": seed},
    )
    for seed in (1, 2, 3)
}  # fmt: skip

# What NeoX itself fails on (see `test_where_neox_fails`).
FAILS = {f"pack_until_overflow_noac_{which}" for which in ("a", "q", "q_label")}


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_split(shared: pathlib.Path, name: str, part: str) -> None:
    expected = golden.arrays(shared, "neox", name)
    counts, options = SPLITS[name]
    options = {"split": "900,50,50", "seed": 1234, "seq_length": 128} | options
    seed, seq_length = options.pop("seed"), options.pop("seq_length")
    data = DataConfig(path=golden.corpus(shared, "neox_corpus_a_text"), **options)
    count = dict(zip(("train", "valid", "test"), counts, strict=True))[part]
    samples = neox.neox_samples(data, SampleRequest(part, count, seq_length, seed), IndexedDataset)  # type: ignore[arg-type]
    if f"{part}_len" not in expected:
        assert samples is None
        return
    assert isinstance(samples, IndexedSamples)
    compare(samples, expected, f"{part}_")


@pytest.mark.parametrize("name", sorted(WHOLE.keys() - FAILS))
def test_whole_corpus(shared: pathlib.Path, name: str) -> None:
    expected = golden.arrays(shared, "neox", name)
    compare(whole(shared, name), expected, "")


def test_every_golden_is_a_case(shared: pathlib.Path) -> None:
    names = {name for name in golden.names(shared, "neox") if not name.startswith("batches_")}
    assert names <= SPLITS.keys() | WHOLE.keys() - FAILS


@pytest.mark.parametrize("name", sorted(FAILS))
def test_where_neox_fails(shared: pathlib.Path, name: str) -> None:
    """The last document of an order is too long: NeoX raises IndexError, here the next begins."""
    samples = whole(shared, name)
    assert len(samples) == 199
    tokens = samples.read(np.arange(199)).tokens
    assert tokens.shape == (199, 129)


def whole(shared: pathlib.Path, name: str) -> IndexedSamples:
    letter, count, options = WHOLE[name]
    options = {"seed": 1234, "seq_length": 128, "labels": False} | options
    wanted = SampleRequest("train", count, options.pop("seq_length"), options.pop("seed"))
    corpus = f"neox_corpus_{letter}"
    labels = (golden.corpus(shared, f"{corpus}_label"),) if options.pop("labels") else ()
    data = DataConfig(
        train=DataSource((golden.corpus(shared, f"{corpus}_text"),), labels=labels), **options
    )
    # A child of a blend asks for half a percent more: here for just these samples.
    opened = [IndexedDataset(path) for path in (*data.train.paths, *labels)]
    return neox.packing(data, wanted, opened[0], opened[1] if labels else None)


def compare(samples: IndexedSamples, expected: dict[str, NDArray], prefix: str) -> None:
    for name in ("doc_idx", "sample_idx", "shuffle_idx"):
        found = getattr(samples.index, name)
        assert found.dtype == expected[prefix + name].dtype
        np.testing.assert_array_equal(found, expected[prefix + name], err_msg=name)
    assert len(samples) == expected[prefix + "len"]
    rows = samples.read(np.arange(len(samples)))
    text = expected[prefix + "text"]
    np.testing.assert_array_equal(rows.tokens[: len(text)], text)
    assert golden.sha256(rows.tokens) == expected[prefix + "all_text_sha256"]
    if prefix + "label" in expected:
        label = expected[prefix + "label"]
        assert rows.counted is not None
        found = np.where(rows.counted, rows.tokens, -100)[: len(label)]
        np.testing.assert_array_equal(found, label)
