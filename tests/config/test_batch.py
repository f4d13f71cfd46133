"""Batch arithmetic, and keys that mean the same batch on other devices."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jaxneox.config import Settings, describe, saved_keys
from jaxneox.config.schema import BatchConfig
from jaxneox.errors import UserError
from tests.config.cases import error, run

MICRO, STEPS, TOTAL = (
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "train_batch_size",
)
small = st.integers(1, 12)


@given(small, small, small, st.sampled_from([(TOTAL, MICRO), (TOTAL, STEPS), (MICRO, STEPS)]))
def test_any_two_give_the_third(micro: int, steps: int, dp: int, known: tuple[str, str]) -> None:
    every = {TOTAL: micro * steps * dp, MICRO: micro, STEPS: steps}
    expected = BatchConfig(every[TOTAL], micro, steps, micro * dp)
    two: dict[str, Any] = {name: every[name] if name in known else None for name in every}
    assert run(dp=dp, **two).batch == run(dp=dp, **every).batch == expected


@given(small, small)
def test_one_is_enough(size: int, dp: int) -> None:
    assert run(dp=dp, **{MICRO: size}).batch == BatchConfig(size * dp, size, 1, size * dp)
    only_total: dict[str, Any] = {TOTAL: size * dp, MICRO: None}
    assert run(dp=dp, **only_total).batch == BatchConfig(size * dp, size, 1, size * dp)


@given(small, small, small, small)
def test_contradictions_name_all_numbers(total: int, micro: int, steps: int, dp: int) -> None:
    every = {TOTAL: total, MICRO: micro, STEPS: steps}
    if total == micro * steps * dp:
        return
    line = error(dp=dp, **every)
    product = f"{MICRO} {micro} x {STEPS} {steps} x dp {dp} is {micro * steps * dp}"
    assert line.startswith(f"{TOTAL} is {total}, but {product}: set {TOTAL} to")


def test_what_does_not_divide_names_the_nearest() -> None:
    line = error(dp=4, **{TOTAL: 100, MICRO: 8})
    assert line.startswith(f"{TOTAL} 100 is not a multiple of {MICRO} 8 x dp 4 = 32: ")
    assert line.endswith("the nearest that fits is 96 or 128")
    only_total: dict[str, Any] = {TOTAL: 3, MICRO: None}
    assert "the nearest that fits is 4" in error(dp=4, **only_total)
    assert "or gradient_accumulation_steps to 3" in error(dp=2, **{TOTAL: 12, MICRO: 2, STEPS: 1})
    only_steps: dict[str, Any] = {MICRO: None, STEPS: 2}
    assert "both missing" in error(**only_steps)


@given(small, small, small, small)
def test_a_saved_run_continues_with_its_batch_on_other_devices(
    micro: int, steps: int, dp: int, other: int
) -> None:
    config = run(dp=dp, **{MICRO: micro, STEPS: steps})
    keys = yaml.safe_load(yaml.safe_dump(saved_keys(config)))
    assert Settings(keys).resolve(dp=dp, vocab_size=460).batch == config.batch
    total = config.batch.global_size
    if total % other == 0:
        again = Settings(keys).resolve(dp=other, vocab_size=460).batch
        assert again.global_size == total and again.micro <= micro
        assert again.micro * again.accumulation * other == total


def test_saved_keys_are_the_users_with_what_the_devices_decided() -> None:
    config = run(dp=3, gas=2, lr="1e-3", model_parallel_size=2)
    saved = saved_keys(config)
    assert saved["train_batch_size"] == 12 and saved["padded_vocab_size"] == 512
    assert saved["lr"] == "1e-3" and "gas" not in saved and MICRO not in saved
    again = Settings(saved).resolve(dp=3, vocab_size=None)
    assert (again.model, again.optimizer, again.batch) == (
        config.model,
        config.optimizer,
        config.batch,
    )
    assert Settings(saved_keys(again)).resolve(dp=3, vocab_size=None).batch == config.batch
    with pytest.raises(UserError, match="nearest that fits is 10 or 15"):
        Settings(saved).resolve(dp=5, vocab_size=None)


def test_a_description_has_a_line_for_every_value() -> None:
    lines = [line.split() for line in describe(run(dp=2)).splitlines()]
    rows = {line[0]: " ".join(line[1:]) for line in lines}
    assert rows["model.hidden_size"] == "64" and rows["batch.global_size"] == "4"
    assert rows["optimizer.betas"] == "(0.9, 0.999)" and "keys" not in rows
