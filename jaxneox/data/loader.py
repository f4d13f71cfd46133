"""Global batches as a function of the step.

`batch(step)` needs no state: a run that resumes, a fresh process and any number of hosts see the
same rows. What decides them is in `fingerprint()`, which a checkpoint keeps.
"""
# G global batch, R rows of it, S tokens of a sample

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.batches import BatchSizes
from jaxneox.data.samples import Samples, locate
from jaxneox.errors import UserError

RowNumbers = slice | Sequence[int]
ALL = slice(None)


class HostBatch(NamedTuple):
    """A batch in the host's memory.

    Inputs are tokens[:, :-1], labels tokens[:, 1:].

    Attributes:
        tokens: int32 [R, S + 1].
        weights: float32 [R, S] of the labels; None if all are 1.
    """

    tokens: NDArray[np.int32]
    weights: NDArray[np.float32] | None


class Loader(ABC):
    """Batches of sequences of `seq_length` + 1 tokens.

    Attributes:
        sizes: the sequences of each optimizer step.
        seq_length: S.
    """

    sizes: BatchSizes
    seq_length: int

    def batch(self, step: int) -> NDArray[np.int32]:
        """Read the tokens of a step, counted from 0: int32 [G, S + 1]."""
        return self.read(step).tokens

    @abstractmethod
    def read(self, step: int, rows: RowNumbers = ALL) -> HostBatch:
        """Read only these rows of a step: what one host needs."""

    def fields(self, step: int, rows: RowNumbers = ALL) -> dict[str, NDArray[Any]]:
        """Read these rows of a step as fields [R, *] of a batch, here `tokens` and `weights`."""
        tokens, weights = self.read(step, rows)
        if weights is None:
            weights = np.ones((len(tokens), tokens.shape[1] - 1), np.float32)
        return {"tokens": tokens, "weights": weights}

    def sample_numbers(self, step: int) -> tuple[int, int]:
        """Return the first and the last sample of a step, as numbers in the order of the data."""
        first = self.sizes.first(step)
        return first, first + self.sizes.size(step) - 1

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Return all that decides the batches, as JSON: equal fingerprints, equal batches."""


class OrderedLoader(Loader):
    """Takes consecutive samples, from step to step.

    Past the end it starts again at sample 0, like a NeoX run that has not been interrupted. NeoX
    drops the last samples that do not fill one micro-batch of every replica. Likewise only a
    multiple of `drop_last` samples is used here; it is the largest global batch unless given.
    Without a length there is no end.
    """

    def __init__(
        self,
        length: int | None,
        *,
        sizes: BatchSizes,
        seq_length: int,
        drop_last: int | None = None,
    ) -> None:
        """Take samples of S + 1 tokens.

        Args:
            length: the samples of one pass, after which they begin again; None if they go on.
            sizes: the sequences of each optimizer step.
            seq_length: S.
            drop_last: only a multiple of it is used, see the class.
        """
        self.sizes, self.seq_length = sizes, seq_length
        unit = drop_last or sizes.largest
        # Data that fills not even one such batch repeats within it.
        self._usable = None if length is None else length // unit * unit or max(1, length)

    def numbers(self, step: int, rows: RowNumbers = ALL) -> NDArray[np.int64]:
        """Return the samples [R] of these rows, as the order of the data numbers them."""
        chosen = row_numbers(rows, self.sizes.size(step))
        first = self._wrapped(self.sizes.first(step))  # any step: Python's integers have no end
        return np.asarray(self._wrapped(first + np.asarray(chosen, np.int64)), np.int64)

    def sample_numbers(self, step: int) -> tuple[int, int]:
        """Return the first and the last sample as the order of the data numbers them.

        Past the end they start again at 0.
        """
        first, last = super().sample_numbers(step)
        return self._wrapped(first), self._wrapped(last)

    def _wrapped(self, sample: Any) -> Any:
        """Return samples as the order of the data numbers them."""
        return sample if self._usable is None else sample % self._usable


class SampleLoader(OrderedLoader):
    """Batches of tokens and the weights of their labels."""

    def __init__(
        self,
        samples: Samples,
        *,
        sizes: BatchSizes,
        seq_length: int,
        vocab_size: int | None = None,
        masked_token: int | None = None,
        pad: int | None = None,
        drop_last: int | None = None,
        separate: bool = False,
    ) -> None:
        """Take samples of S + 1 tokens.

        Args:
            samples: where the rows are read.
            sizes: the sequences of each optimizer step.
            seq_length: S.
            vocab_size: tokens must be below it; None is no limit.
            masked_token: has no loss where it is the input, `eod-mask-loss`; None is none.
            pad: has no loss where it is the label, and becomes token 0; None is none.
            drop_last: only a multiple of it is used, see the class.
            separate: whether each document of a row is a text of its own; the first token of each
                then has no loss as a label.
        """
        length = None if samples.endless else len(samples)
        super().__init__(length, sizes=sizes, seq_length=seq_length, drop_last=drop_last)
        self.samples = samples
        self._vocab_size = vocab_size
        self._masked_token = masked_token
        self._pad = pad
        self._separate = separate

    def read(self, step: int, rows: RowNumbers = ALL) -> HostBatch:
        """Read rows of a step, see `Loader`.

        Raises:
            UserError: a token is outside of the vocabulary; says where.
        """
        numbers = self.numbers(step, rows)
        tokens, counted = self.samples.read(numbers)
        weights = self._weights(tokens, counted)
        if self._pad is not None:
            tokens = np.where(tokens == self._pad, 0, tokens)
        outside = first_outside(tokens, self._vocab_size)
        if outside is not None:
            row, column = outside
            where = locate(self.samples, int(numbers[row]), column)
            raise outside_vocabulary(where, tokens[outside], self._vocab_size)
        return HostBatch(tokens.astype(np.int32, copy=False), weights)

    def fields(self, step: int, rows: RowNumbers = ALL) -> dict[str, NDArray[Any]]:
        """Read rows of a step as fields; `documents`, int32 [R, S], is one if they are separate."""
        fields = super().fields(step, rows)
        if not self._separate:
            return fields
        documents = self.samples.documents(self.numbers(step, rows))
        alike = documents[:, 1:] == documents[:, :-1]
        weights = fields["weights"] * (alike & (documents[:, 1:] > 0))
        return fields | {"weights": weights.astype(np.float32), "documents": documents[:, :-1]}

    def fingerprint(self) -> dict[str, Any]:
        return {
            "samples": self.samples.fingerprint(),
            "wraps_at": self._usable,
            **self.sizes.identity(),
            "seq_length": self.seq_length,
            "masked_token": self._masked_token,
            "pad": self._pad,
            **({"separate": True} if self._separate else {}),
        }

    def _weights(
        self, tokens: NDArray[Any], counted: NDArray[np.bool_] | None
    ) -> NDArray[np.float32] | None:
        if counted is None and self._masked_token is None and self._pad is None:
            return None
        counts = np.ones(tokens[:, 1:].shape, bool) if counted is None else counted[:, 1:]
        if self._masked_token is not None:
            counts = counts & (tokens[:, :-1] != self._masked_token)
        if self._pad is not None:
            counts = counts & (tokens[:, 1:] != self._pad)
        return counts.astype(np.float32)


def row_numbers(rows: RowNumbers, global_batch: int) -> Sequence[int]:
    """Return the rows as numbers; raise IndexError for one that the batch does not have."""
    every = range(global_batch)
    return every[rows] if isinstance(rows, slice) else [every[row] for row in rows]


def first_outside(tokens: NDArray[Any], vocab_size: int | None) -> tuple[int, ...] | None:
    """Find the first token that is negative or not below `vocab_size`; None if there is none."""
    limit = np.inf if vocab_size is None else vocab_size
    if not tokens.size or (tokens.min() >= 0 and tokens.max() < limit):
        return None
    return tuple(map(int, np.argwhere((tokens < 0) | (tokens >= limit))[0]))


def outside_vocabulary(where: str, token: int, vocab_size: int | None) -> UserError:
    return UserError(
        f"{where} is {token}, outside the vocabulary of {vocab_size}; the dataset was made with "
        "another tokenizer"
    )
