"""The perplexity by characters: NeoX's number, and an evaluation that logs it."""

import math
from pathlib import Path

import numpy as np
import pytest

from jaxneox.config.data_schema import TokenizerConfig
from jaxneox.data import build_tokenizer
from jaxneox.data.loader import ALL, HostBatch, Loader, RowNumbers
from jaxneox.errors import UserError
from jaxneox.train.loop.characters import perplexity, tokens_per_character
from tests.config.cases import error
from tests.train.runs import metrics, succeeds, write_yaml


class Rows(Loader):
    """Batches of three rows each."""

    def __init__(self, rows: np.ndarray):
        self.rows = rows.astype(np.int32)

    def read(self, step: int, rows: RowNumbers = ALL) -> HostBatch:
        return HostBatch(self.rows[3 * step : 3 * step + 3], None)

    def fingerprint(self) -> dict[str, object]:
        return {}


def test_neoxs_number(shared: Path) -> None:
    place = shared / "golden/neox_posttrain"
    with np.load(place / "key_char_ppl/golden.npz") as arrays:
        tokens, labels = arrays["eval/tokens"], arrays["eval/labels"]
        loss, expected = float(arrays["eval/lm_loss"]), float(arrays["eval/lm_loss_char_lvl_ppl"])
    rows = Rows(np.concatenate([tokens, labels[:, -1:]], axis=1))
    vocabulary = str(place / "common/tokenizer.json")
    tokenizer = build_tokenizer(TokenizerConfig("HFTokenizer", vocab_file=vocabulary))
    found = perplexity(loss, tokens_per_character(rows, tokenizer, range(4)))
    assert found == pytest.approx(expected, rel=1e-12)  # float64 on both sides


def test_characters_are_counted_not_bytes() -> None:
    tokenizer = build_tokenizer(TokenizerConfig("CharLevelTokenizer"))
    rows = Rows(np.array([tokenizer.encode("abcdef")] * 3))
    assert tokens_per_character(rows, tokenizer, range(1)) == 1
    assert perplexity(2.0, 0.5) == pytest.approx(math.e)
    assert perplexity(1000.0, 1.0) == math.inf


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="needs the text of tokens"):
        tokens_per_character(Rows(np.zeros((3, 4))), None, range(1))
    assert "is not that of tokens" in error(char_level_ppl=True, train_impl="dpo")


@pytest.mark.slow
def test_an_evaluation_logs_it(tmp_path: Path) -> None:
    """A token of this tokenizer is a character, and the end of a document is one that has none."""
    keys = {"char_level_ppl": True, "train_iters": 4, "eval_interval": 4, "eval_iters": 2}
    yaml = write_yaml(tmp_path, **keys)
    said = succeeds(yaml, "--mesh", "dp=2", "--save", tmp_path / "run")
    last = metrics(tmp_path / "run")[-1]
    assert last["valid_char_ppl"] == pytest.approx(math.exp(last["valid_loss"]), rel=0.05)
    assert last["test_char_ppl"] == pytest.approx(math.exp(last["test_loss"]), rel=0.05)
    assert (
        f"valid loss {last['valid_loss']:.4f}  valid char ppl {last['valid_char_ppl']:.4f}" in said
    )
