"""`--tokens FILE.npz`: replays its batches, or says in one line why it cannot."""

import pathlib
from typing import Any

import numpy as np
import pytest

from jaxneox.data import TokensFile
from jaxneox.errors import UserError

TOKENS = np.arange(2 * 3 * 5).reshape(2, 3, 5)
MASK = np.arange(2 * 3 * 4).reshape(2, 3, 4) % 2


def saved(folder: pathlib.Path, **arrays: Any) -> str:
    np.savez(folder / "x.npz", **arrays)
    return str(folder / "x.npz")


def test_replays(tmp_path: pathlib.Path) -> None:
    loader = TokensFile(
        saved(tmp_path, tokens=TOKENS, loss_mask=MASK), global_batch=3, seq_length=4, vocab_size=30
    )
    assert len(loader) == 2 and loader.batch(1).dtype == np.int32
    np.testing.assert_array_equal(loader.batch(1), TOKENS[1])
    np.testing.assert_array_equal(loader.read(0, [2, 0]).tokens, TOKENS[0, [2, 0]])
    mask = loader.read(1, slice(1, 3)).weights
    assert mask is not None and mask.dtype == np.float32
    np.testing.assert_array_equal(mask, MASK[1, 1:])


def test_mask_is_optional(tmp_path: pathlib.Path) -> None:
    loader = TokensFile(saved(tmp_path, tokens=TOKENS), global_batch=3, seq_length=4)
    assert loader.read(0).weights is None


def test_fingerprint_is_the_content(tmp_path: pathlib.Path) -> None:
    prints = []
    for arrays in (
        {"tokens": TOKENS},
        {"tokens": TOKENS.astype(np.uint16)},
        {"tokens": TOKENS + 1},
        {"tokens": TOKENS, "loss_mask": MASK},
    ):
        loader = TokensFile(saved(tmp_path, **arrays), global_batch=3, seq_length=4)
        prints.append(loader.fingerprint())
    assert prints[0] == prints[1] and prints[0] not in prints[2:] and prints[2] != prints[3]


@pytest.mark.parametrize("step", [2, -1])
def test_beyond_the_end(tmp_path: pathlib.Path, step: int) -> None:
    loader = TokensFile(saved(tmp_path, tokens=TOKENS), global_batch=3, seq_length=4)
    with pytest.raises(UserError, match=rf"x\.npz: step {step} is beyond its 2 steps"):
        loader.batch(step)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": TOKENS}, "arrays ids, expected 'tokens'"),
        ({"tokens": TOKENS[0]}, r"tokens is int64 \[3, 5\], expected integers \[steps, 3, 5\]"),
        ({"tokens": TOKENS[:, :2]}, r"tokens is int64 \[2, 2, 5\]"),
        ({"tokens": TOKENS[:, :, 1:]}, r"tokens is int64 \[2, 3, 4\]"),
        ({"tokens": TOKENS / 2}, r"tokens is float64"),
        ({"tokens": TOKENS, "loss_mask": TOKENS}, r"loss_mask is int64 \[2, 3, 5\]"),
        ({"tokens": TOKENS, "loss_mask": MASK[:1]}, "loss_mask of 1 steps, tokens of 2"),
        ({"tokens": TOKENS + 1}, r"tokens\[1, 2, 4\] is 30, outside the vocabulary of 30"),
        ({"tokens": TOKENS - 1}, r"tokens\[0, 0, 0\] is -1, outside"),
        ({"tokens": np.array([object()])}, "no .npz file"),
    ],
)
def test_wrong_content(tmp_path: pathlib.Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        TokensFile(saved(tmp_path, **arrays), global_batch=3, seq_length=4, vocab_size=30)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4broken"])
def test_wrong_file(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npz: is no \.npz"):
        TokensFile(str(path), global_batch=3, seq_length=4)
    with pytest.raises(UserError, match=r"none\.npz: no such file"):
        TokensFile(str(tmp_path / "none.npz"), global_batch=3, seq_length=4)


def test_npy_is_no_npz(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "x.npy", TOKENS)
    with pytest.raises(UserError, match=r"x\.npy: is no \.npz"):
        TokensFile(str(tmp_path / "x.npy"), global_batch=3, seq_length=4)
