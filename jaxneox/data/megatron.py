"""Megatron-core's GPTDataset: parts of one corpus or of a blend, `order: megatron`.

(Megatron-LM `megatron/core/datasets`, `blended_megatron_dataset_builder.py`, `gpt_dataset.py` and
`blended_dataset.py`; the comments name its cases.)
"""

import math
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxneox.config.schema import DataConfig
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.order.blend import blend_indices
from jaxneox.data.order.cache import kept
from jaxneox.data.order.packed import SampleIndex, epochs_needed, megatron_packed
from jaxneox.data.order.split import split_sequences
from jaxneox.data.sample_request import SampleRequest
from jaxneox.data.samples import Blend, IndexedSamples, Samples
from jaxneox.errors import UserError

Open = Callable[[str], IndexedDataset]

MAX_DATASETS = 32766
SURPLUS = 0.005  # mid_level_dataset_surplus
NO_PAD = -1


def megatron_samples(
    data: DataConfig, request: SampleRequest, open_: Open, pad: int = NO_PAD
) -> Samples | None:
    """Build the samples of a split; None if it has no sequences.

    `data-path` is one prefix, several, or several with their weights, "0.7 a 0.3 b", all of them
    split by `split`; or each split has its own paths and weights. Short rows are filled with `pad`.
    """
    if data.path is None:
        source = data.source(request.split)
        return _blended(source.paths, source.weights or None, data, request, open_, pad, False)
    paths, weights = blend_of(data.path)
    return _blended(paths, weights, data, request, open_, pad, True)


def blend_of(path: str) -> tuple[Sequence[str], Sequence[float] | None]:
    """Parse Megatron's `--data-path` to prefixes and their weights (`get_blend_from_list`)."""
    words = shlex.split(path)
    if len(words) % 2:
        numbers = [word for word in words[::2] if _is_number(word)]
        if len(words) > 1 and numbers:
            raise UserError(
                f"data-path: {path!r} has {len(words)} words; expected prefixes, or a weight "
                "before each of them"
            )
        return words, None
    try:
        return words[1::2], [float(word) for word in words[::2]]
    except ValueError:
        return words, None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _blended(
    paths: Sequence[str],
    weights: Sequence[float] | None,
    data: DataConfig,
    request: SampleRequest,
    open_: Open,
    pad: int,
    divided: bool,
) -> Samples | None:
    if not paths:
        return None
    if weights is not None and not (min(weights) > 0 and math.isfinite(sum(weights))):
        raise UserError(
            f"weights {list(weights)} of {len(paths)} datasets: expected all above 0, and a sum"
        )
    if len(paths) > MAX_DATASETS:
        raise UserError(f"{len(paths)} datasets in a blend, expected {MAX_DATASETS} or less")
    datasets = [open_(path) for path in paths]
    parts = [
        split_sequences(data.split, len(dataset))[("train", "valid", "test").index(request.split)]
        if divided
        else range(len(dataset))
        for dataset in datasets
    ]
    if not all(parts):
        if request.split == "train":
            raise UserError(f"split: {data.split!r} leaves a dataset without sequences to train")
        return None
    # One prefix is no blend, but with a weight of its own and `split` it is one of one.
    if len(paths) == 1 and not (divided and weights):
        return sequence_samples(datasets[0], parts[0], request.num_samples, data, request, pad)
    shares = None if weights is None else _normalised(weights)
    counts: list[int | None] = [None] * len(paths)  # one epoch
    if shares is not None:
        targets = [math.ceil(request.num_samples * share) for share in shares]
        counts = [math.ceil(target * (1 + SURPLUS)) for target in targets]
    children = [
        sequence_samples(dataset, part, count, data, request, pad)
        for dataset, part, count in zip(datasets, parts, counts, strict=True)
    ]
    if shares is not None:
        return blend(children, shares, sum(targets), datasets[0])
    lengths = [len(child) for child in children]
    return blend(children, lengths, min(request.num_samples, sum(lengths)), datasets[0])


def blend(
    children: Sequence[IndexedSamples],
    weights: Sequence[float],
    size: int | None,
    first: IndexedDataset,
) -> Blend:
    """Build a BlendedDataset: `size` samples, or all of each child, which then gives its weight.

    Raises:
        UserError: a child has fewer samples than that takes of it.
    """
    empty = [str(child.dataset.prefix) for child in children if not len(child)]
    if empty:
        raise UserError(
            f"{empty[0]}: has not one sample in its part, and a blend needs one of each dataset; "
            "leave it out or give it more tokens"
        )
    shares = _normalised(weights)
    limits = [len(child) for child in children] if size is None else None
    count = sum(map(len, children)) if size is None else size
    identity: dict[str, Any] = {"order": "megatron blend", "weights": shares, "size": size}
    indices = kept(
        first.prefix,
        {**identity, "count": count},
        count,
        lambda: blend_indices(shares, count, limits),
    )
    taken = np.bincount(indices[0], minlength=len(children))
    for child, number in zip(children, taken.tolist(), strict=True):
        if number > len(child):
            raise UserError(
                f"{child.dataset.prefix}: the blend takes {number} samples of it, it has "
                f"{len(child)}; give it less weight"
            )
    return Blend(children, indices[0], indices[1], identity)


def sequence_samples(
    dataset: IndexedDataset,
    sequences: range,
    num_samples: int | None,
    data: DataConfig,
    request: SampleRequest,
    pad: int,
) -> IndexedSamples:
    """Build a GPTDataset: samples of a part of one corpus; one epoch if no number is given."""
    tokens = int(np.sum(dataset.sizes[sequences.start : sequences.stop], dtype=np.int64))
    extra = int(data.extra_token)
    if tokens <= extra:
        raise UserError(
            f"{dataset.bin_path}: sequences {sequences.start} to {sequences.stop} have {tokens} "
            "tokens"
        )
    identity = {
        "order": "megatron",
        "sequences": [sequences.start, sequences.stop],
        "num_samples": num_samples,
        "seq_length": request.seq_length,
        "seed": request.seed,
        "extra_token": data.extra_token,
        "keep_partial": data.keep_partial_validation and request.split == "valid",
    }
    epochs = epochs_needed(num_samples, tokens, request.seq_length, extra) if num_samples else 1
    index = kept(
        dataset.prefix,
        {**identity, "sizes": dataset.content["sizes"]},
        epochs * len(sequences) + 3 * (epochs * tokens // request.seq_length),
        lambda: megatron_packed(
            dataset.sizes,
            sequences,
            num_samples=num_samples,
            seq_length=request.seq_length,
            seed=request.seed,
            extra=extra,
            keep_partial=bool(identity["keep_partial"]),
        ),
    )
    return IndexedSamples(
        dataset, None, SampleIndex(*index),
        seq_length=request.seq_length, length=len(index[2]), extra=extra, fill=pad,
        identity={**identity, "pad": pad},
    )  # fmt: skip


def _normalised(weights: Sequence[float]) -> list[float]:
    values = np.array(weights, np.float64)
    return (values / np.sum(values)).tolist()
