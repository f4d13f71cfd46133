"""Megatron-core's order: every array of its index, every row, every weight."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jaxneox.config.data_schema import DataConfig, DataSource
from jaxneox.data import megatron
from jaxneox.data.batches import BatchSizes
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.loader import SampleLoader
from jaxneox.data.sample_request import SampleRequest
from jaxneox.data.samples import Blend, IndexedSamples, Samples
from jaxneox.errors import UserError
from tests.data import golden

A, B = "mcore_corpus_a_text", "mcore_corpus_b_text"
PARTS = ("train", "valid", "test")

# Samples of train, valid and test, and what is not the default.
ONE: dict[str, tuple[tuple[int | None, ...], dict[str, Any]]] = {
    "one_epoch": ((300, 10, 10), {}),
    "multi_epoch_separate_last": ((1000, 60, 40), {}),
    "multi_epoch_not_separate": ((1300, 60, 40), {}),
    "boundary_442x2": ((885, 30, 29), {}),
    "num_samples_none": ((None, None, None), {}),
    "boundary_seq144_ns446": ((446, 0, 0), {"split": "1,0,0", "seq_length": 144}),
    "boundary_seq144_ns447": ((447, 0, 0), {"split": "1,0,0", "seq_length": 144}),
    "no_extra_token": ((1000, 60, 40), {"extra_token": False}),
    "valid_keep_partial": ((300, 31, 10), {"keep_partial_validation": True}),
    "valid_none_keep_partial": ((300, None, 10), {"keep_partial_validation": True}),
    "seed42_seq64": ((2500, 100, 100), {"seed": 42, "seq_length": 64, "split": "8,1,1"}),
    "eod_mask_only": ((300, 10, 10), {"eod": True}),
    "reset_masks_eod": ((300, 10, 10), {"eod": True}),
    "inter_document_masking": ((300, 10, 10), {}),
    "pad_is_eod": ((300, 10, 10), {"pad": megatron.NO_PAD}),
    "neox_bin_packed": ((1200, 60, 40), {"corpus": "neox_corpus_a_text"}),
}

# Samples, weights, and what is not the default.
BLENDS: dict[str, tuple[tuple[int | None, ...], tuple[float, float] | None]] = {
    "blend_70_30": ((1200, 60, 40), (0.7, 0.3)),
    "blend_surplus": ((627, 20, 20), (0.7, 0.3)),
    "blend_no_weights": ((600, 20, 20), None),
}


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("part", PARTS)
def test_one_corpus(shared: pathlib.Path, name: str, part: str) -> None:
    expected = golden.arrays(shared, "mcore", name)
    counts, given = ONE[name]
    options = {"split": "900,50,50", "corpus": A, "eod": False, "pad": golden.PAD} | given
    wanted = SampleRequest(
        part,  # type: ignore[arg-type]
        dict(zip(PARTS, counts, strict=True))[part],  # type: ignore[arg-type]
        options.pop("seq_length", 128),
        options.pop("seed", 1234),
    )
    eod, pad = options.pop("eod"), options.pop("pad")
    corpus = golden.corpus(shared, options.pop("corpus"))
    samples = megatron.megatron_samples(
        DataConfig(path=corpus, **options), wanted, IndexedDataset, pad
    )
    if f"{part}_len" not in expected:
        assert samples is None
        return
    assert isinstance(samples, IndexedSamples)
    assert len(samples) == expected[f"{part}_len"]
    compare_index(samples, expected, f"{part}_")
    compare_rows(samples, expected, part, wanted.seq_length, golden.EOD if eod else None, pad)


@pytest.mark.parametrize("name", BLENDS)
@pytest.mark.parametrize("part", PARTS)
def test_blend(shared: pathlib.Path, name: str, part: str) -> None:
    expected = golden.arrays(shared, "mcore", name)
    counts, weights = BLENDS[name]
    paths = [golden.corpus(shared, corpus) for corpus in (A, B)]
    words = paths if weights is None else [str(weights[0]), paths[0], str(weights[1]), paths[1]]
    if weights is None:  # two words are read as a weight and a path only where they are that
        assert megatron.blend_of(" ".join(words)) == (words, None)
    count = dict(zip(PARTS, counts, strict=True))[part]
    samples = megatron.megatron_samples(
        DataConfig(path=" ".join(words), split="900,50,50"),
        SampleRequest(part, count, 128, 1234),  # type: ignore[arg-type]
        IndexedDataset,
        golden.PAD,
    )
    compare_blend(samples, expected, part)


@pytest.mark.parametrize("part", PARTS)
def test_blend_of_all_there_is(shared: pathlib.Path, part: str) -> None:
    expected = golden.arrays(shared, "mcore", "blend_no_weights_no_size")
    data = DataConfig(split="900,50,50")
    wanted = SampleRequest(part, 0, 128, 1234)  # type: ignore[arg-type]
    opened = [golden.open_corpus(shared, corpus) for corpus in (A, B)]
    children = []
    for dataset in opened:
        bounds = megatron.split_sequences(data.split, len(dataset))[PARTS.index(part)]
        children.append(megatron.sequence_samples(dataset, bounds, None, data, wanted, golden.PAD))
    lengths = [len(child) for child in children]
    compare_blend(megatron.blend(children, lengths, None, opened[0]), expected, part)


@pytest.mark.parametrize("part", PARTS)
def test_paths_of_each_split(shared: pathlib.Path, part: str) -> None:
    expected = golden.arrays(shared, "mcore", "blend_per_split")
    a, b = (golden.corpus(shared, corpus) for corpus in (A, B))
    data = DataConfig(
        train=DataSource((a, b), (0.6, 0.4)), valid=DataSource((b,)), test=DataSource((a,))
    )
    count = {"train": 600, "valid": 20, "test": 20}[part]
    samples = megatron.megatron_samples(
        data,
        SampleRequest(part, count, 128, 1234),
        IndexedDataset,
        golden.PAD,  # type: ignore[arg-type]
    )
    if part == "train":
        compare_blend(samples, expected, part)
        return
    assert isinstance(samples, IndexedSamples)
    compare_index(samples, expected, f"{part}_")
    compare_rows(samples, expected, part, 128, None, golden.PAD)


def test_every_golden_is_a_case(shared: pathlib.Path) -> None:
    others = {"blend_no_weights_no_size", "blend_per_split"}
    assert golden.names(shared, "mcore") <= ONE.keys() | BLENDS.keys() | others


@pytest.mark.parametrize(
    "other",
    [
        {"pack": "unpacked"},
        {"train": DataSource(labels=("y",))},
        {"valid": DataSource(rewards=("y",))},
        {"test": DataSource(rejected=("y",))},
        {"weight_by_num_documents": True},
    ],
)
def test_what_it_has_not_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="order: megatron has no "):
        DataConfig(order="megatron", **other)


def test_a_list_that_is_none() -> None:
    with pytest.raises(UserError, match="has 3 words; expected prefixes, or a weight before each"):
        megatron.blend_of("0.7 a 0.3")
    assert megatron.blend_of("a b c") == (["a", "b", "c"], None)
    assert megatron.blend_of("0.7 'a b' 0.3 c") == (["a b", "c"], [0.7, 0.3])


def test_sampler(shared: pathlib.Path) -> None:
    """Megatron's micro-batches of each rank are the rows of ours, from any consumed sample on."""
    cases = json.loads((shared / "golden" / "data" / "mcore" / "samplers.json").read_text())
    compared = 0
    for case in cases:
        if not case["sampler"].startswith("single (") or "first6" not in case:
            continue
        together = case["micro_batch"] * case["dp"]
        sizes = BatchSizes(together)
        step, rest = divmod(case["consumed_samples"], together)
        begin = case["rank"] * case["micro_batch"]
        for k, rows in enumerate(case["first6"]):
            first = sizes.first(step + k) + begin
            assert rest == 0 and rows == list(range(first, first + case["micro_batch"]))
            compared += 1
    assert compared >= 24


def compare_index(samples: IndexedSamples, expected: dict[str, NDArray], prefix: str) -> None:
    names = ("document_index", "sample_index", "shuffle_index")
    for name, found in zip(names, samples.index, strict=True):
        assert found.dtype == expected[prefix + name].dtype
        np.testing.assert_array_equal(found, expected[prefix + name], err_msg=name)
    used = np.unique(samples.index.doc_idx)
    np.testing.assert_array_equal(used, expected[prefix + "indices"])


def compare_blend(samples: Samples | None, expected: dict[str, NDArray], part: str) -> None:
    assert isinstance(samples, Blend)
    for name in ("dataset_index", "dataset_sample_index"):
        np.testing.assert_array_equal(getattr(samples, name), expected[f"{part}_{name}"])
    for k, child in enumerate(samples.datasets):
        assert isinstance(child, IndexedSamples)
        compare_index(child, expected, f"{part}_{k}_")
    compare_rows(samples, expected, part, 128, None, golden.PAD)


def compare_rows(
    samples: Samples,
    expected: dict[str, NDArray],
    part: str,
    seq_length: int,
    eod: int | None,
    pad: int,
) -> None:
    loader = SampleLoader(
        samples, sizes=BatchSizes(len(samples)), seq_length=seq_length, masked_token=eod, pad=pad
    )
    tokens, weights = loader.read(0)
    assert weights is not None
    inputs, labels = tokens[:, :-1], tokens[:, 1:]
    shown = len(expected[f"{part}_tokens"])
    np.testing.assert_array_equal(inputs[:shown], expected[f"{part}_tokens"])
    np.testing.assert_array_equal(labels[:shown], expected[f"{part}_labels"])
    assert golden.sha256(inputs, labels) == expected[f"{part}_all_tokens_labels_sha256"]
    if eod is None:
        # A process masks in every sample what is padding in the first that it reads.
        weights = weights * weights[0]
    np.testing.assert_array_equal(weights[:shown], expected[f"{part}_loss_mask"])
