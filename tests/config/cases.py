"""A smallest run, to be varied by the tests."""

from typing import Any

import pytest

from jaxneox.config import Config, Settings
from jaxneox.errors import UserError

SMALLEST: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "seq_length": 32,
    "max_position_embeddings": 32,
    "train_iters": 10,
    "train_micro_batch_size_per_gpu": 2,
}


def run(dp: int = 1, vocab_size: int | None = 460, **keys: Any) -> Config:
    return Settings(SMALLEST | keys).resolve(dp=dp, vocab_size=vocab_size)


def error(dp: int = 1, vocab_size: int | None = 460, **keys: Any) -> str:
    """The one line with which a run is refused."""
    with pytest.raises(UserError) as raised:
        run(dp=dp, vocab_size=vocab_size, **keys)
    line = str(raised.value)
    assert "\n" not in line
    return line
