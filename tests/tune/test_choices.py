"""Length, batch and steps by the stated rules."""

from typing import Any

import pytest

from jaxneox.config import Settings
from jaxneox.errors import UserError
from jaxneox.tune.choices import Asked, choose, length_for, model_keys, rows_of
from tests.config.cases import SMALLEST

NOTHING = Asked(None, None, None, None, 3.0)
SAVED = SMALLEST | {"padded_vocab_size": 512, "max_position_embeddings": 256}


@pytest.mark.parametrize(
    ("sizes", "asked", "expected"),
    [([10, 64], None, 64), ([65], None, 128), ([9999], None, 256), ([9999], 32, 32)],
)
def test_the_length_is_that_of_the_longest_document(
    sizes: list[int], asked: int | None, expected: int
) -> None:
    assert length_for(sizes, 256, asked) == expected


def test_more_than_the_model_has_is_refused() -> None:
    with pytest.raises(UserError, match="--length 512: the model has 256 positions"):
        length_for([3], 256, 512)


def test_rows_hold_whole_documents() -> None:
    assert rows_of([60, 60, 60], 128) == 2
    assert rows_of([128, 1], 128) == 2
    assert rows_of([1000, 20], 128) == 2  # what is too long is cut
    assert rows_of([5] * 100, 100) == 5


def keys_for(documents: int, dp: int = 1, **asked: Any) -> dict[str, Any]:
    return choose(SAVED, [60] * documents, [60] * 10, dp, NOTHING._replace(**asked))


def test_batches_leave_steps_in_an_epoch() -> None:
    assert keys_for(40)["train_batch_size"] == 1  # 20 rows
    assert keys_for(200)["train_batch_size"] == 8  # 200 rows of 64
    assert keys_for(100_000)["train_batch_size"] == 32
    assert keys_for(200, dp=4)["train_batch_size"] == 8
    assert keys_for(40, dp=4)["train_batch_size"] == 4
    assert keys_for(200)["train_iters"] == 75
    assert keys_for(200, epochs=1.0)["train_iters"] == 25
    assert keys_for(200, batch=20)["train_iters"] == 30


def test_the_rate_is_another_with_lora() -> None:
    assert keys_for(200)["optimizer"]["params"]["lr"] == 2e-5
    found = keys_for(200, lora=8)
    assert found["optimizer"]["params"]["lr"] == 2e-4 and found["lora"] == {"rank": 8}
    assert keys_for(200, rate=0.5)["min_lr"] == 0.05


def test_a_row_of_a_pair_is_a_pair() -> None:
    """So that the batch is chosen for pairs, of which those that are too long do not count."""
    sizes = [20] * 400 + [257, 300]
    found = choose(SAVED, sizes, [20] * 10, 1, NOTHING._replace(epochs=None), "dpo")
    assert (found["seq_length"], found["train_batch_size"]) == (256, 16)
    assert found["train_iters"] == 26  # 401 pairs once
    with pytest.raises(UserError, match="what to train on: all 2 are longer than a row of 256"):
        choose(SAVED, [300, 400], [20], 1, NOTHING, "dpo")
    # 134 rows of three documents, four in a batch, three times
    normal = choose(SAVED, [20] * 400, [20] * 10, 1, NOTHING._replace(epochs=None))
    assert normal["train_iters"] == 101 and normal["pack_impl"] == "pack_until_overflow"


def test_the_keys_are_a_run_of_the_same_model() -> None:
    found = Settings(keys_for(200) | {"train_data_paths": ["x"], "lora": {"rank": 2}})
    model, before = found.model(None), Settings(SAVED).model(None)
    assert (model.hidden_size, model.vocab_size) == (before.hidden_size, 512)
    assert model.seq_length == 64 and found.data.separate_documents
    assert found.generation.context == max(64, before.seq_length)
    assert keys_for(200, length=256)["context_length"] == 256
    assert found.schedule.decay_iters == found.train_iters


def test_what_was_trained_before_is_left_behind() -> None:
    trained = SAVED | {"train_iters": 7, "data_path": "x", "save": "y", "lora": {"rank": 3}}
    assert model_keys(trained).keys() == model_keys(SAVED).keys()


@pytest.mark.parametrize("changes", [{}, {"neox_compat": True}, {"use_mup": None}], ids=str)
def test_a_model_with_mup_keeps_its_multipliers(changes: dict[str, Any]) -> None:
    factors = {"mup_embedding_mult": 3.0, "mup_rp_embedding_mult": 0.5, "mup_attn_temp": 2.0}
    mup = {"use_mup": True, "mup_base_hidden_size": 8, "pos_emb": "learned"}
    saved = SAVED | mup | factors | changes
    assert Settings(model_keys(saved)).model(None) == Settings(saved).model(None)
