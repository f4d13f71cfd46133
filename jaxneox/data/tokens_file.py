"""Exactly the batches of a file, `--tokens FILE.npz`, for comparisons and experiments."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.batches import BatchSizes
from jaxneox.data.loader import ALL, HostBatch, Loader, RowNumbers, first_outside, row_numbers
from jaxneox.errors import UserError
from jaxneox.npz import read_arrays
from jaxneox.reading import regular_file


class TokensFile(Loader):
    """Replays batches from a `.npz`: `tokens` [steps, global_batch, S + 1], maybe `loss_mask`.

    `loss_mask` [steps, global_batch, S] weighs the labels. It does not wrap: a step beyond the
    end is a UserError.
    """

    def __init__(
        self,
        path: str,
        *,
        global_batch: int,
        seq_length: int,
        vocab_size: int | None = None,
    ) -> None:
        self.path = path
        self.sizes = BatchSizes(global_batch)
        self.seq_length = seq_length
        arrays = _read_npz(path)
        self._tokens = arrays["tokens"]
        self._mask = arrays.get("loss_mask")
        self._check("tokens", self._tokens, "iu", seq_length + 1)
        if self._mask is not None:
            self._check("loss_mask", self._mask, "biuf", seq_length)
            if len(self._mask) != len(self._tokens):
                raise UserError(
                    f"{path}: loss_mask of {len(self._mask)} steps, tokens of {len(self._tokens)}"
                )
            self._check_weights(self._mask)
        outside = first_outside(self._tokens, vocab_size)
        if outside is not None:
            raise UserError(
                f"{path}: tokens[{', '.join(map(str, outside))}] is {self._tokens[outside]}, "
                f"outside the vocabulary of {vocab_size}"
            )

    def __len__(self) -> int:
        """The number of steps."""
        return len(self._tokens)

    def read(self, step: int, rows: RowNumbers = ALL) -> HostBatch:
        tokens = self._at(self._tokens, step, rows).astype(np.int32)
        if self._mask is None:
            return HostBatch(tokens, None)
        return HostBatch(tokens, self._at(self._mask, step, rows).astype(np.float32))

    def fingerprint(self) -> dict[str, Any]:
        digest = hashlib.sha256(self._tokens.astype("<i8").tobytes())
        if self._mask is not None:
            digest.update(self._mask.astype("<f4").tobytes())
        return {"order": "tokens file", "content": digest.hexdigest(), "steps": len(self)}

    def _check(self, name: str, array: NDArray[Any], kinds: str, width: int) -> None:
        expected = (self.sizes.largest, width)
        if array.ndim != 3 or array.shape[1:] != expected or array.dtype.kind not in kinds:
            raise UserError(
                f"{self.path}: {name} is {array.dtype} {list(array.shape)}, expected "
                f"{'integers' if kinds == 'iu' else 'numbers'} [steps, {expected[0]}, "
                f"{expected[1]}] of train_batch_size and seq-length"
            )

    def _check_weights(self, mask: NDArray[Any]) -> None:
        """Check that weights are finite and not below 0, so that they have a mean."""
        with np.errstate(over="ignore"):
            weights = mask.astype(np.float32)
        wrong = ~(np.isfinite(weights) & (weights >= 0))
        if wrong.any():
            at = tuple(map(int, np.argwhere(wrong)[0]))
            raise UserError(
                f"{self.path}: loss_mask[{', '.join(map(str, at))}] is {mask[at]}, expected the "
                "weight of a label: 0 or a number above it, that float32 holds"
            )
        if not weights.any():
            raise UserError(f"{self.path}: loss_mask is 0 everywhere: there is nothing to learn")

    def _at(self, array: NDArray[Any], step: int, rows: RowNumbers) -> NDArray[Any]:
        if not 0 <= step < len(self):
            raise UserError(f"{self.path}: step {step} is beyond its {len(self)} steps")
        return array[step, list(row_numbers(rows, self.sizes.largest))]


def read_tokens_shape(path: str) -> tuple[int, int, int]:
    """Read (steps, global batch, sequence + 1) of a file of tokens."""
    shape = _read_npz(path)["tokens"].shape
    if len(shape) != 3:
        raise UserError(f"{path}: tokens is {list(shape)}, expected [steps, batch, sequence + 1]")
    return shape


def _read_npz(path: str) -> dict[str, NDArray[Any]]:
    regular_file(path)
    try:
        content = read_arrays(path, ("tokens", "loss_mask"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    if "tokens" not in content:
        raise UserError(f"{path}: has no array `tokens`")
    return content
