"""Batches that a Python program gives, one for each step."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxneox.data.batches import BatchSizes
from jaxneox.data.examples import TOKENS
from jaxneox.data.loader import ALL, HostBatch, Loader, RowNumbers, first_outside, row_numbers
from jaxneox.errors import UserError, cut, listed

Given = ArrayLike | Mapping[str, ArrayLike]
"""A global batch: tokens int [G, S + 1], or fields [G, *] by name."""

Batches = Iterable[Given] | Callable[[int], Given]
"""Batches one after the other, or a function from the step, counted from 0, to its batch."""


Shape = tuple[int, ...]


class EndOfBatches(Exception):
    """There are no more batches."""


class GivenBatches(Loader):
    """Batches from an iterable or from a function of the step.

    A function makes a run that resumes go on with the same batches. An iterable has no position:
    each start takes its first batch. Batches are read ahead of their steps.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        sizes: BatchSizes,
        seq_length: int,
        vocab_size: int,
        shapes: Mapping[str, Shape] | None = None,
    ) -> None:
        """Take batches.

        Args:
            batches: each with as many rows as its step has. Fields are `tokens`, int [G, S + 1];
                `weights`, float [G, S] of the labels, 1 unless given; and any that an objective
                of one's own asks for.
            sizes: the sequences of each step.
            seq_length: S.
            vocab_size: tokens must be below it.
            shapes: of the fields that every batch needs, after the rows.

        Raises:
            UserError: the batches are neither an iterable of batches nor a function.
        """
        self._shapes = {} if shapes is None else shapes
        self.sizes, self.seq_length, self._vocab_size = sizes, seq_length, vocab_size
        self.by_step = callable(batches)
        self._function = batches if callable(batches) else self._next
        self._iterator = iter(()) if callable(batches) else _iterator(batches)
        self._taken = 0

    def read(self, step: int, rows: RowNumbers = ALL) -> HostBatch:
        fields = self.fields(step, rows)
        if "tokens" not in fields:
            raise UserError(f"batch {step}: has no field `tokens`, but {listed(fields)}")
        return HostBatch(fields["tokens"], fields["weights"])

    def fields(self, step: int, rows: RowNumbers = ALL) -> dict[str, NDArray[Any]]:
        """Read rows of a step.

        Raises:
            EndOfBatches: there are no more.
            UserError: an array has another shape or type, or a token is outside the vocabulary.
        """
        try:
            given = self._function(step)
        except StopIteration:
            raise EndOfBatches from None
        fields = dict(given) if isinstance(given, Mapping) else {"tokens": given}
        arrays = {name: _array(step, name, field) for name, field in fields.items()}
        self._check(step, arrays)
        size = self.sizes.size(step)
        weights = arrays.get("weights", np.ones((size, *self._shape("weights", 0))))
        arrays["weights"] = weights.astype(np.float32)
        chosen = list(row_numbers(rows, size))
        return {name: _narrow(array[chosen]) for name, array in arrays.items()}

    def fingerprint(self) -> dict[str, Any]:
        return {"order": "given in Python", **self.sizes.identity(), "seq_length": self.seq_length}

    def _next(self, step: int) -> Given:
        if step != self._taken:
            raise UserError(
                f"batch {step} was asked for after batch {self._taken - 1} of an iterable; give a "
                "function from the step to its batch"
            )
        try:
            given = next(self._iterator)
        except StopIteration:
            if not self._taken:
                raise UserError(
                    "data: the iterable has no batch; one that an earlier run has read, as a "
                    "generator, does not begin again: give a list or a function of the step"
                ) from None
            raise
        self._taken += 1
        return given

    def _check(self, step: int, arrays: dict[str, NDArray[Any]]) -> None:
        """Hold a batch's fields against what its step has."""
        size = self.sizes.size(step)
        if not arrays.keys() & {"tokens", "weights"}:
            raise UserError(f"batch {step}: has neither `tokens` nor `weights`")
        for name in TOKENS:
            if name in arrays and (name == TOKENS[0] or name in self._shapes):
                self._check_tokens(step, name, arrays[name])
        for name, array in arrays.items():
            if array.dtype.kind not in "biuf" or array.ndim < 1 or len(array) != size:
                raise UserError(
                    f"batch {step}: {name} is {array.dtype} {list(array.shape)}, expected numbers "
                    f"with {size} rows: train_batch_size"
                )
            if array.dtype.kind in "iu" and array.size and not _fits(array):
                raise UserError(
                    f"batch {step}: {name} has integers beyond 32 bits, which the devices have not"
                )
        weights = arrays.get("weights", np.ones(1))
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise UserError(f"batch {step}: expected weights of 0 or finite numbers above it")
        self._check_needed(step, arrays)

    def _check_tokens(self, step: int, name: str, tokens: NDArray[Any]) -> None:
        """Hold a field of tokens against its shape and the vocabulary."""
        shape = (self.sizes.size(step), *self._shape(name, 1))
        if tokens.dtype.kind not in "iu" or tokens.shape != shape:
            pair = ", chosen and rejected" * (len(shape) > 2)
            raise UserError(
                f"batch {step}: {name} is {tokens.dtype} {list(tokens.shape)}, expected integers "
                f"{list(shape)}: train_batch_size{pair} and seq_length + 1"
            )
        if outside := first_outside(tokens, self._vocab_size):
            raise UserError(
                f"batch {step}: {name}[{', '.join(map(str, outside))}] is {tokens[outside]}, "
                f"outside the vocabulary of {self._vocab_size}"
            )

    def _shape(self, name: str, more: int) -> Shape:
        """Return the shape of a row's field; of next-token prediction unless it is said."""
        return self._shapes.get(name, (self.seq_length + more,))

    def _check_needed(self, step: int, arrays: dict[str, NDArray[Any]]) -> None:
        """Hold the fields against those that every batch needs; weights are made where absent."""
        size = self.sizes.size(step)
        for name, shape in self._shapes.items():
            if name not in arrays and name != "weights":
                raise UserError(f"batch {step}: has no field `{name}`, but {listed(arrays)}")
            if name in arrays and arrays[name].shape != (size, *shape):
                raise UserError(
                    f"batch {step}: {name} has the shape {list(arrays[name].shape)}, expected "
                    f"{[size, *shape]}"
                )


def _iterator(batches: Iterable[Given]) -> Iterator[Given]:
    """Begin to iterate over batches; text and a dictionary, which is one batch, are none."""
    try:
        if not isinstance(batches, str | bytes | Mapping):
            return iter(batches)
    except TypeError:
        pass
    raise UserError(
        f"data: found {type(batches).__name__}, expected an iterable of batches or a function from "
        "the step to its batch; files are named by the key data-path"
    )


def _array(step: int, name: object, field: Any) -> NDArray[Any]:
    """Return a field as an array."""
    if not isinstance(name, str):
        raise UserError(f"batch {step}: {cut(repr(name))} is no field's name, which is a text")
    try:
        return np.asarray(field)
    except ValueError:  # rows of several lengths, or a tuple of several arrays
        raise UserError(
            f"batch {step}: {name} is no array, since its rows have several shapes; fields beside "
            "the tokens are given by name, as in {'tokens': …, 'weights': …}"
        ) from None


def _fits(array: NDArray[Any]) -> bool:
    limits = np.iinfo(np.int32)
    return bool(limits.min <= array.min() and array.max() <= limits.max)


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    """Return numbers as the devices have them: int32, float32 and bool."""
    if array.dtype.kind == "b":
        return array
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
