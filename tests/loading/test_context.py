"""A model whose training had short rows takes longer texts when it is used."""

from pathlib import Path

import numpy as np
import pytest

import jaxneox
from jaxneox.config import Settings
from jaxneox.errors import UserError
from jaxneox.loading.load import in_use
from tests.train.runs import KEYS, write_words


def test_a_run_with_short_rows(tmp_path: Path) -> None:
    words = write_words(tmp_path / "words.jsonl")
    keys = KEYS | {"data-path": str(words), "context-length": 40, "train-iters": 2}
    jaxneox.fit(keys, settings={"save": tmp_path / "run"}, mesh="dp=1", verbose=False)
    model = jaxneox.load(tmp_path / "run")
    assert model.config.model.seq_length == 40
    (answer,) = model.generate([list(range(1, 21))], max_tokens=12, ignore_eos=True)
    assert len(answer.tokens) == 12
    again = jaxneox.fit(
        tmp_path / "run", settings={"save": tmp_path / "next", "train-iters": 3, "finetune": True},
        mesh="dp=1", verbose=False,
    )  # fmt: skip
    assert again.config.model.seq_length == 16
    rows = np.arange(2 * 33).reshape(2, 33) % 200
    assert model.token_losses(model.params, rows).shape == (2, 32)


def test_learned_positions_have_an_end() -> None:
    learned = {"pos-emb": "learned", "padded-vocab-size": 256, "context-length": 17}
    keys = {name.replace("-", "_"): x for name, x in (KEYS | learned).items()}
    with pytest.raises(UserError, match="context_length 17: the model has learned 16 positions"):
        in_use(Settings(keys).resolve(1, None))
    assert in_use(Settings(keys | {"context_length": 12}).resolve(1, None)).model.seq_length == 12
