"""Names, types and `--set`."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxneox.config import Settings, apply_set
from jaxneox.config.check import typed
from jaxneox.config.fates import COUNT, FLOATS, SHARE
from jaxneox.config.keys import KEYS
from jaxneox.config.other_names import MEANT
from jaxneox.errors import UserError
from tests.config.cases import SMALLEST, error, run


def test_all_unknown_keys_are_named_with_the_nearest() -> None:
    line = error(hiden_size=1, fp16={"enabled": True, "hysteresys": 2}, stage=1, zzz=0)
    assert line.startswith(
        "unknown keys: hiden_size (did you mean hidden_size?), "
        "fp16.hysteresys (did you mean fp16.hysteresis?), "
        "stage (did you mean zero_optimization.stage?), zzz;"
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("num_layers", "two", "found 'two' (str), expected int (from 1 to 10,000)"),
        ("num_layers", True, "found True (bool), expected int (from 1 to 10,000)"),
        ("num_layers", 0, "found 0 (int), expected int (from 1 to 10,000)"),
        ("num_layers", 2.5, "found 2.5 (float), expected int (from 1 to 10,000)"),
        ("hidden_dropout", 1.5, "found 1.5 (float), expected float (from 0 to 1)"),
        ("min_lr", float("nan"), "found nan (float), expected float (from 0)"),
        ("gpt_j_residual", "yes", "found 'yes' (str), expected bool"),
        ("fp16", True, "found True (bool), expected dict"),
        ("train_data_paths", "a", "found 'a' (str), expected list of str"),
        ("norm", "layernrom", "found 'layernrom' (did you mean layernorm?), expected one of"),
    ],
)
def test_wrong_types(key: str, value: Any, expected: str) -> None:
    assert error(**{key: value}).startswith(f"{key}: {expected}")


def test_what_yaml_reads_as_text_is_a_number_where_one_is_wanted() -> None:
    config = run(min_lr="1e-5", optimizer={"type": "adam", "params": {"lr": "1e-3"}})
    assert (config.schedule.min_lr, config.optimizer.lr) == (1e-5, 1e-3)
    assert run(train_iters="1e3").train.train_iters == 1000
    assert typed("x", ["1e-1", 1], FLOATS) == [0.1, 1.0]


@given(st.integers(1, 10**9))
def test_numbers_keep_their_value(number: int) -> None:
    for given_as in (number, float(number), str(number)):
        assert typed("x", given_as, COUNT) == number
    assert typed("x", 1 / number, SHARE) == 1 / number


def test_names_of_one_setting_must_agree() -> None:
    assert run(gas=4).batch.accumulation == 4
    assert run(gas=4, gradient_accumulation_steps=4).batch.accumulation == 4
    assert run(clip_grad=0.3).optimizer.grad_clip == 0.3
    assert run(zero_stage=2).parallel.zero_stage == 2
    assert error(gas=4, gradient_accumulation_steps=2) == (
        "gradient_accumulation_steps is 2 but gas is 4: they are one setting, keep one of the two"
    )


def test_null_and_an_empty_path_are_not_given() -> None:
    settings = Settings(SMALLEST | {"norm": None, "load": "", "fp16": None})
    assert settings["norm"] == "layernorm" and settings["load"] is None
    assert not settings.given("norm") and not settings.given("load")


def test_set_reaches_every_key_in_either_spelling() -> None:
    keys: dict[str, Any] = {"hidden_size": 64, "optimizer": {"params": {"lr": 0.1}}}
    changed = apply_set(
        keys,
        ["hidden-size=128", "optimizer.params.lr=1e-3", "fp16.min-loss-scale=2", "save=a=b"],
    )
    assert changed["hidden_size"] == 128 and changed["save"] == "a=b"
    assert changed["optimizer"] == {"params": {"lr": "1e-3"}}
    assert changed["fp16"] == {"min_loss_scale": 2}
    assert keys["optimizer"]["params"]["lr"] == 0.1  # the given keys stay as they are


def test_set_wins_over_every_name_of_a_setting() -> None:
    keys = {"gas": 2, "lr": 0.1, "optimizer": {"params": {"lr": 0.1, "weight_decay": 0.2}}}
    changed = apply_set(keys, ["gradient_accumulation_steps=4", "lr=0.5", "weight_decay=0.3"])
    assert changed == {
        "gradient_accumulation_steps": 4,
        "optimizer": {"params": {"lr": 0.5}},
        "weight_decay": 0.3,
    }
    assert apply_set({"gas": 2}, ["gas=null"]) == {"gradient_accumulation_steps": None}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("hidden_size", "expected key=value"),
        ("hiden_size=1", r"did you mean hidden_size\?"),
        ("optimizer.params.bettas=1", r"did you mean optimizer.params.betas\?"),
        ("hidden_size.x=1", "hidden_size has no keys inside it"),
        ("attention_config=[", "is not a YAML value"),
    ],
)
def test_set_refuses(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        apply_set({}, [assignment])


def test_notes_tell_what_is_not_done() -> None:
    assert run().notes == ()
    notes = run(use_bnb_optimizer=True, use_comet=False, optimizer={"type": "CPU_Adam"}).notes
    assert [note.split(":")[0] for note in notes] == ["use_bnb_optimizer", "optimizer.type"]


def test_data_that_is_set_takes_the_place_of_the_yamls(caplog: pytest.LogCaptureFixture) -> None:
    """One dataset instead of three lists, and the other way round; what is taken away is said."""
    lists = {f"{split}_data_paths": ["a"] for split in ("train", "valid", "test")}
    assert apply_set(lists | {"seed": 1}, ["data-path=b"]) == {"seed": 1, "data_path": "b"}
    assert "--set data_path takes the place of train_data_paths, valid_data_paths" in caplog.text
    given = [f"{name}=[a]" for name in lists]
    assert apply_set({"data_path": "b"}, given) == lists
    both = {"data_path": "b", "train_data_paths": ["a"]}
    assert apply_set({}, ["data-path=b", "train-data-paths=[a]"]) == both, "refused by who reads it"
    old = {f"{split}_data_path": "a" for split in ("train", "valid", "test")}
    assert apply_set(old, ["data-path=b"]) == {"data_path": "b"}
    assert apply_set({"data_path": "b"}, [f"{name}=a" for name in old]) == lists


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("learning_rate=1e-3", "lr"),
        ("n_layer=2", "num_layers"),
        ("max_steps=5", "train_iters"),
        ("rope_theta=5", "rotary_emb_base"),
        ("save_steps=5", "checkpoint_factor"),
    ],
)
def test_a_name_of_another_program_is_understood(typed: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"{typed.partition('=')[0]} \(did you mean {meant}\?\)"):
        Settings(apply_set(dict(SMALLEST), [typed]))


def test_suggested_names_are_keys_and_other_names_are_none() -> None:
    assert set(MEANT.values()) <= KEYS.keys()
    assert not MEANT.keys() & KEYS.keys()
