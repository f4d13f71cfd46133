"""The text on which two functions are compared."""

import argparse
from pathlib import Path

import numpy as np

from jaxneox.config.schema import ModelConfig
from jaxneox.data import Tokenizer
from jaxneox.data.library import TokenizerFault
from jaxneox.errors import UserError
from jaxneox.npz import read_arrays
from jaxneox.reading import INDEX_SIZE, read_text

ROWS, LENGTH = 2, 64

MOST = 4096
"""The most tokens of a given text that are used, because each goes through both sides in
float64."""


def sample(model: ModelConfig, tokenizer: Tokenizer | None) -> tuple[np.ndarray, str]:
    """Return int tokens [B, T] and their description.

    They are a source file of Python's library, or random tokens without a tokenizer that can
    encode it.
    """
    length = min(LENGTH, longest(model))
    why = "there is no tokenizer"
    ids: list[int] = []
    if tokenizer is not None:
        try:
            ids = tokenizer.encode(Path(argparse.__file__).read_text())
            why = "the tokenizer makes no tokens of a text"
        except TokenizerFault as fault:
            why = str(fault)
    if not ids:
        tokens = np.random.default_rng(0).integers(0, model.vocab_size, (ROWS, length))
        return tokens, f"{tokens.size} random tokens ({why})"
    tokens = np.resize(np.asarray(ids, np.int64), (ROWS, length))
    return tokens, f"the first {tokens.size} tokens of Python's argparse.py"


def read_tokens(
    path: Path, model: ModelConfig, tokenizer: Tokenizer | None
) -> tuple[np.ndarray, str]:
    """Read int tokens [B, T] of a file, and return them with their description.

    The file is an `.npz` (its `tokens`), an `.npy` or, with a tokenizer, a text. At most MOST
    tokens are used, in whole sequences from the beginning.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected an .npz with `tokens`, an .npy or a text")
    if path.suffix in (".npz", ".npy"):
        tokens = _array(path)
    elif tokenizer is None:
        raise UserError(
            f"{path}: a text needs a tokenizer, and neither checkpoint has one; give an .npz with "
            "`tokens`"
        )
    else:
        text = read_text(path, INDEX_SIZE, errors="replace")
        tokens = np.asarray(tokenizer.encode(text), np.int64)
    _check(path, tokens, model)
    if tokens.ndim == 1:
        length = min(len(tokens), longest(model))
        tokens = tokens[: len(tokens) // length * length].reshape(-1, length)
    tokens = tokens.reshape(-1, tokens.shape[-1])[:, : longest(model)]
    if tokens.shape[1] < 2:
        raise UserError(f"{path}: sequences of {tokens.shape[1]} tokens, expected at least 2")
    taken = tokens[: max(1, MOST // tokens.shape[1])].astype(np.int64)
    part = "all" if taken.size == tokens.size else f"the first {taken.size:,} of"
    return taken, f"{part} {tokens.size:,} tokens of {path.name}"


def _check(path: Path, tokens: np.ndarray, model: ModelConfig) -> None:
    if tokens.dtype.kind not in "iu" or not tokens.size or not tokens.ndim:
        raise UserError(f"{path}: found {tokens.dtype}{list(tokens.shape)}, expected token ids")
    if tokens.min() < 0 or tokens.max() >= model.vocab_size:
        worst = tokens.min() if tokens.min() < 0 else tokens.max()
        raise UserError(f"{path}: has token {worst}, the model a vocabulary of {model.vocab_size}")


def longest(model: ModelConfig) -> int:
    if model.positions.kind == "learned":
        return model.positions.max_positions - model.positions.offset
    return model.seq_length


def _array(path: Path) -> np.ndarray:
    arrays = read_arrays(path, ("tokens", ""))
    return next(iter(arrays.values()))
