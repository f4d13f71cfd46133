"""Global batches as a function of the step.

`batch(step)` needs no state: a run that resumes, a fresh process and any number of hosts see the
same rows. What decides them is in `fingerprint()`, which a checkpoint keeps.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxneox.config.schema import DataConfig
from jaxneox.data.blend import Blend, normalised, samples_of_each, weights_by_documents
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.samples import Samples, pack, split_documents
from jaxneox.data.text import cached_dataset, is_text
from jaxneox.data.tokenizer import Tokenizer
from jaxneox.errors import UserError

Split = Literal["train", "valid", "test"]
Rows = slice | Sequence[int]
ALL = slice(None)


class Loader(ABC):
    """Batches of `global_batch` sequences of `seq_length` + 1 tokens.

    Attributes:
        global_batch: sequences of one optimizer step.
        seq_length: S; a row has one token more, inputs [:-1] and labels [1:] overlap.
    """

    global_batch: int
    seq_length: int

    def batch(self, step: int) -> NDArray[np.int32]:
        """Tokens int32 [global_batch, S + 1] of a step, counted from 0."""
        return self.rows(step, ALL)

    @abstractmethod
    def rows(self, step: int, rows: Rows) -> NDArray[np.int32]:
        """Only these rows of `batch(step)`: what one host needs."""

    def sample_numbers(self, step: int) -> tuple[int, int]:
        """The first and the last sample of a step, as numbers in the order of the data."""
        return step * self.global_batch, (step + 1) * self.global_batch - 1

    @abstractmethod
    def loss_mask(self, step: int, rows: Rows = ALL) -> NDArray[np.float32] | None:
        """Weights float32 [rows, S] of the labels; None where all are 1."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """All that decides the batches, as JSON: equal fingerprints, equal batches."""


class SampleLoader(Loader):
    """Consecutive samples: row r of step t is sample t * global_batch + r.

    Past the end it starts again at sample 0, like a NeoX run that has not been interrupted.
    NeoX drops the samples that do not fill a micro-batch of all replicas; so does `drop_last`,
    their number, which is the global batch unless given.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        global_batch: int,
        seq_length: int,
        vocab_size: int | None = None,
        masked_token: int | None = None,
        drop_last: int | None = None,
    ) -> None:
        self.samples = samples
        self.global_batch = global_batch
        self.seq_length = seq_length
        self._vocab_size = vocab_size
        self._masked_token = masked_token
        unit = drop_last or global_batch
        # Data that fills not even one such batch repeats within it.
        self._usable = len(samples) // unit * unit or max(1, len(samples))

    def rows(self, step: int, rows: Rows) -> NDArray[np.int32]:
        first = step * self.global_batch
        chosen = [(first + row) % self._usable for row in row_numbers(rows, self.global_batch)]
        tokens = np.empty((len(chosen), self.seq_length + 1), np.int64)
        for row, i in enumerate(chosen):
            tokens[row] = self.samples.sample(i)
        outside = first_outside(tokens, self._vocab_size)
        if outside is not None:
            row, column = outside
            raise UserError(
                f"{self.samples.locate(chosen[row], column)} is {tokens[row, column]}, outside the "
                f"vocabulary of {self._vocab_size}; the dataset was made with another tokenizer"
            )
        return tokens.astype(np.int32)

    def sample_numbers(self, step: int) -> tuple[int, int]:
        """As they are found in `self.samples`: past the end they start again at 0."""
        first, last = super().sample_numbers(step)
        return first % self._usable, last % self._usable

    def loss_mask(self, step: int, rows: Rows = ALL) -> NDArray[np.float32] | None:
        """0 where the input token is the end of a document and `eod-mask-loss` is set."""
        if self._masked_token is None:
            return None
        inputs = self.rows(step, rows)[:, :-1]
        return np.not_equal(inputs, self._masked_token).astype(np.float32)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "samples": self.samples.fingerprint(),
            "wraps_at": self._usable,
            "global_batch": self.global_batch,
            "seq_length": self.seq_length,
            "masked_token": self._masked_token,
        }


def row_numbers(rows: Rows, global_batch: int) -> Sequence[int]:
    """The rows as numbers; IndexError for one that the batch does not have."""
    every = range(global_batch)
    return every[rows] if isinstance(rows, slice) else [every[row] for row in rows]


def first_outside(tokens: NDArray[Any], vocab_size: int | None) -> tuple[int, ...] | None:
    """Where the first token stands that is negative or not below `vocab_size`; None if none."""
    limit = np.inf if vocab_size is None else vocab_size
    if not tokens.size or (tokens.min() >= 0 and tokens.max() < limit):
        return None
    return tuple(map(int, np.argwhere((tokens < 0) | (tokens >= limit))[0]))


class Order(NamedTuple):
    """What NeoX's order depends on besides the documents."""

    num_samples: int
    seq_length: int
    seed: int


def samples_needed(
    split: Split, *, train_iters: int, eval_interval: int, eval_iters: int, global_batch: int
) -> int:
    """The samples that NeoX builds a split for (`build_train_valid_test_data_loaders`)."""
    steps = {
        "train": train_iters,
        "valid": (train_iters // eval_interval + 1) * eval_iters,
        "test": eval_iters,
    }
    return steps[split] * global_batch


def build_loader(
    data: DataConfig,
    tokenizer: Tokenizer | None,
    *,
    split: Split,
    seq_length: int,
    global_batch: int,
    num_samples: int,
    seed: int,
    vocab_size: int | None = None,
    drop_last: int | None = None,
) -> Loader | None:
    """The loader of a split in NeoX's order; None where the split has no documents or samples.

    Args:
        data: where the tokens are.
        tokenizer: for text and for `eod-mask-loss`; a .bin/.idx dataset needs none.
        split: which part of `data-path`, or which of the three lists of paths.
        num_samples: of `samples_needed`; decides the number of epochs, and so the order.
        seed: of both shuffles.
        vocab_size: tokens must be below it: the padded size; the tokenizer's by default.
        drop_last: see SampleLoader.

    Raises UserError for data that is missing, corrupt or empty, naming the file or the key.
    """
    _refuse_what_is_to_come(data)
    if num_samples < 1:
        return None
    order = Order(num_samples, seq_length, seed)
    if data.path and data.train_paths:
        raise UserError("data-path and train-data-paths are both set, expected one of them")
    if data.path:
        samples = _split_samples(data, split, order, tokenizer)
    elif data.train_paths:
        samples = _blended_samples(data, split, order, tokenizer)
    else:
        raise UserError(
            "no data: set data-path (a .bin/.idx prefix, .txt, .jsonl, a folder or builtin:stdlib)"
            " with split, or train-data-paths, valid-data-paths and test-data-paths"
        )
    if samples is None:
        return None
    if data.eod_mask_loss and (tokenizer is None or tokenizer.eod is None):
        raise UserError("eod-mask-loss: true, but the tokenizer has no <|endoftext|> token")
    return SampleLoader(
        samples,
        global_batch=global_batch,
        seq_length=seq_length,
        vocab_size=vocab_size or (tokenizer.vocab_size if tokenizer else None),
        masked_token=tokenizer.eod if tokenizer and data.eod_mask_loss else None,
        drop_last=drop_last,
    )


def _split_samples(
    data: DataConfig, split: Split, order: Order, tokenizer: Tokenizer | None
) -> Samples | None:
    """One part of the documents of `data-path`."""
    assert data.path is not None
    dataset = _open(data.path, tokenizer)
    parts = split_documents(data.split, len(dataset))
    documents = dict(zip(("train", "valid", "test"), parts, strict=True))[split]
    if documents:
        return pack(dataset, documents, **order._asdict())
    if split == "train":
        raise UserError(
            f"{data.path}: split {data.split!r} leaves no document of {len(dataset)} to train"
        )
    return None


def _blended_samples(
    data: DataConfig, split: Split, order: Order, tokenizer: Tokenizer | None
) -> Samples | None:
    """All documents of the paths of a split, in the proportion of their weights."""
    paths, weights = {
        "train": (data.train_paths, data.train_weights),
        "valid": (data.valid_paths, data.valid_weights),
        "test": (data.test_paths, data.test_weights),
    }[split]
    if not paths:
        return None
    key = f"{split}-data-weights"
    weights = weights or (1.0,) * len(paths)
    if len(weights) != len(paths):
        raise UserError(f"{key}: {len(weights)} weights for {len(paths)} {split}-data-paths")
    datasets = [_open(path, tokenizer) for path in paths]
    shares = normalised(weights, key)
    if data.weight_by_num_documents:
        counts = [len(dataset) for dataset in datasets]
        shares = normalised(weights_by_documents(counts, data.weighted_sampler_alpha), key)
    children = [
        pack(dataset, range(len(dataset)), **order._replace(num_samples=samples)._asdict())
        for dataset, samples in zip(
            datasets, samples_of_each(shares, order.num_samples), strict=True
        )
    ]
    return Blend(children, shares)


def _open(path: str, tokenizer: Tokenizer | None) -> IndexedDataset:
    if not is_text(path):
        dataset = IndexedDataset(path)
    elif tokenizer is None:
        raise UserError(f"{path}: text needs a tokenizer, set tokenizer-type and vocab-file")
    else:
        dataset = IndexedDataset(cached_dataset(path, tokenizer))
    if not len(dataset):
        raise UserError(f"{path}: a dataset without documents")
    return dataset


def _refuse_what_is_to_come(data: DataConfig) -> None:
    """Other orders and label masks change every batch: better no run than another one."""
    if data.pack != "packed":
        raise UserError(f"pack-impl: {data.pack} is not supported yet, expected packed")
    for split in ("train", "valid", "test"):
        if getattr(data, f"{split}_label_paths"):
            raise UserError(f"{split}-label-data-paths: label datasets are not supported yet")
