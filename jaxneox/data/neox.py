"""GPT-NeoX's datasets: a part of one corpus, or a blend of several, in any of its packings.

Sources: gpt-neox `megatron/data/data_utils.py` and `gpt2_dataset.py`.
"""

import hashlib
from collections.abc import Callable, Sequence, Sized
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jaxneox.config.schema import DataConfig
from jaxneox.console.say import tell
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.label_datasets import check_in_step, with_loss
from jaxneox.data.order.blend import (
    blend_indices,
    normalised,
    samples_of_each,
    weights_by_documents,
)
from jaxneox.data.order.cache import kept
from jaxneox.data.order.packed import SampleIndex, epochs_needed, neox_packed
from jaxneox.data.order.split import split_documents
from jaxneox.data.order.whole_documents import pack_until_overflow, unpacked
from jaxneox.data.sample_request import SampleRequest
from jaxneox.data.samples import Blend, IndexedSamples, Samples
from jaxneox.errors import UserError

Open = Callable[[str], IndexedDataset]
Child = TypeVar("Child", bound=Sized)
Joined = TypeVar("Joined")
Join = Callable[[Sequence[Child], NDArray[Any], NDArray[np.int64], dict[str, Any]], Joined]

PACKED = "neox packed"  # the order of one dataset, by pack-impl packed
MAX_DATASETS = 254  # dataset_index is a uint8, and NeoX keeps one value free
FILL = 0  # of rows that are too short; without labels it has a loss, as in NeoX


def neox_samples(data: DataConfig, request: SampleRequest, open_: Open) -> Samples | None:
    """Build the samples of a split; None if it has no documents."""
    if data.path is not None:
        return _part(data, request, open_)
    return _blend(data, request, open_)


def _part(data: DataConfig, request: SampleRequest, open_: Open) -> Samples | None:
    """Take one part of the documents of `data-path`."""
    assert data.path is not None
    dataset = open_(data.path)
    parts = split_documents(data.split, len(dataset))
    documents = dict(zip(("train", "valid", "test"), parts, strict=True))[request.split]
    if documents:
        if data.pack != "packed" and request.split != "train":
            tell(
                f"note: pack-impl: {data.pack} takes the documents of {request.split} from the "
                "begin of the file, as NeoX does, so from the training documents too"
            )
        return packing(data, request, dataset, None, documents)
    if request.split == "train":
        raise UserError(
            f"{data.path}: split {data.split!r} leaves no document of {len(dataset)} to train"
        )
    return None


def _blend(data: DataConfig, request: SampleRequest, open_: Open) -> Samples | None:
    """Blend all documents of the paths of a split."""
    source = data.source(request.split)
    if not source.paths:
        return None
    datasets = [open_(path) for path in source.paths]
    labels: list[IndexedDataset | None] = [open_(path) for path in source.labels]
    labels = labels or [None] * len(datasets)

    def child(k: int, asked: SampleRequest) -> IndexedSamples:
        return packing(data, asked, datasets[k], labels[k])

    return blended(data, request, datasets, child, Blend)


def blended(
    data: DataConfig,
    request: SampleRequest,
    datasets: Sequence[IndexedDataset],
    child: Callable[[int, SampleRequest], Child],
    join: Join[Child, Joined],
) -> Joined:
    """Blend what is read of the paths of a split, in the proportion of their weights.

    Its length is the sum of the datasets' own lengths, whatever the weights: a dataset may be asked
    for more than it has and then begins again.

    Args:
        data: says the weights.
        request: the samples of the blend.
        datasets: those of the paths.
        child: builds the samples of dataset k for a request of its own.
        join: makes the blend of them, of the two arrays of `order.blend_indices` and its identity.
    """
    source = data.source(request.split)
    name = f"{'pos-' if source.rejected else ''}{request.split}-data-paths"
    if len(datasets) > MAX_DATASETS:
        raise UserError(f"{name}: {len(datasets)} datasets, expected {MAX_DATASETS} or less")
    key = f"{request.split}-data-weights"
    shares = normalised(source.weights or (1.0,) * len(datasets), key)
    if data.weight_by_num_documents:
        counts = [len(dataset) for dataset in datasets]
        shares = normalised(weights_by_documents(counts, data.weighted_sampler_alpha), key)
    children = [
        child(k, request._replace(num_samples=count))
        for k, count in enumerate(samples_of_each(shares, request.num_samples))
    ]
    # NeoX divides by the sum once more, this time numpy's, which may round differently.
    weights = (np.asarray(shares) / np.sum(shares)).tolist()
    identity = {"order": "neox blend", "weights": weights}
    size = sum(map(len, children))
    if not size:
        raise UserError(
            f"{name}: none of {len(children)} datasets has two samples of seq-length "
            f"{request.seq_length} + 1 tokens, and NeoX leaves one out; give more data"
        )
    indices = kept(
        datasets[0].prefix, {**identity, "size": size}, size, lambda: blend_indices(weights, size)
    )
    return join(children, indices[0], indices[1], identity)


def packing(
    data: DataConfig,
    request: SampleRequest,
    dataset: IndexedDataset,
    labels: IndexedDataset | None,
    documents: range | None = None,
) -> IndexedSamples:
    """Build the samples of one dataset by `pack-impl`, of all documents unless given."""
    documents = range(len(dataset)) if documents is None else documents
    if labels is not None:
        check_in_step(dataset, labels)
    if data.pack == "packed":
        return packed_samples(dataset, labels, documents, request)
    identity: dict[str, Any] = {
        "order": f"neox {data.pack}",
        "allow_chopped": data.allow_chopped,
        "documents": len(documents),
        "num_samples": request.num_samples,
        "seq_length": request.seq_length,
        "seed": request.seed,
    }
    # NeoX ignores which documents the split gave, and takes as many from the start of the file.
    useful = _useful(data, request, dataset, labels, len(documents))
    size, seq_length, seed = max(1, request.num_samples), request.seq_length, request.seed

    def build() -> SampleIndex:
        if data.pack == "unpacked":
            return unpacked(useful, num_samples=size, seed=seed)
        return pack_until_overflow(
            dataset.sizes[: len(documents)],
            useful,
            num_samples=size,
            seq_length=seq_length,
            seed=seed,
        )

    sizes = dataset.content["sizes"]
    key = {**identity, "sizes": sizes, "useful": hash_of(useful)}
    index = SampleIndex(*kept(dataset.prefix, key, 3 * size + len(dataset), build))
    return IndexedSamples(
        dataset, labels, index,
        seq_length=seq_length, length=size - 1, extra=1, fill=FILL, identity=identity,
    )  # fmt: skip


def packed_samples(
    dataset: IndexedDataset,
    labels: IndexedDataset | None,
    documents: range,
    request: SampleRequest,
) -> IndexedSamples:
    """Build at least `num_samples` samples by `packed`, unless the request says the epochs.

    They come from as many epochs as that needs. The order depends on the number of epochs, not on
    the number of samples asked for.
    """
    tokens = int(np.sum(dataset.sizes[documents.start : documents.stop], dtype=np.int64))
    if not tokens:
        raise UserError(
            f"{dataset.bin_path}: documents {documents.start} to {documents.stop} have no tokens"
        )
    epochs = request.epochs or epochs_needed(request.num_samples, tokens, request.seq_length)
    identity = {
        "order": PACKED,
        "documents": [documents.start, documents.stop],
        "epochs": epochs,
        "seq_length": request.seq_length,
        "seed": request.seed,
    }
    index = kept(
        dataset.prefix,
        {**identity, "sizes": dataset.content["sizes"]},
        epochs * len(documents) + 3 * (epochs * tokens // request.seq_length),
        lambda: neox_packed(
            dataset.sizes,
            documents,
            epochs=epochs,
            seq_length=request.seq_length,
            seed=request.seed,
        ),
    )
    # N - 1: NeoX's sampler never reaches the last of its N samples.
    length = max(0, len(index[2]) - 1)
    return IndexedSamples(
        dataset, labels, SampleIndex(*index),
        seq_length=request.seq_length, length=length, extra=1, fill=FILL, identity=identity,
    )  # fmt: skip


def _useful(
    data: DataConfig,
    request: SampleRequest,
    dataset: IndexedDataset,
    labels: IndexedDataset | None,
    documents: int,
) -> NDArray[np.bool_]:
    """Tell of each of the first documents whether it may be in a sample.

    It must be short enough, and have a label to learn from.
    """
    width = request.seq_length + 1
    useful = np.ones(len(dataset), bool)
    if not data.allow_chopped:
        useful &= dataset.sizes <= width
    if data.pack == "unpacked":
        if labels is None:
            raise UserError(
                "pack-impl: unpacked needs labels, train-label-data-paths and those of valid and "
                f"test, which {dataset.prefix} does not have"
            )
        width -= 1
    if labels is not None:
        useful &= with_loss(labels, width)
    useful = useful[:documents]
    if not useful.any():
        raise UserError(
            f"{dataset.bin_path}: none of {documents} documents can be used with pack-impl: "
            f"{data.pack}; each is longer than seq-length + 1 = {request.seq_length + 1} tokens "
            "with allow-chopped: false, or all its labels are -100"
        )
    return useful


def hash_of(values: NDArray[np.bool_]) -> str:
    """Return a short stand-in for which documents are used, for the key of an index."""
    return hashlib.sha256(np.packbits(values).tobytes()).hexdigest()
