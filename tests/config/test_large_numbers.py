"""A number may be any: what is derived from it takes no longer, and an error's line has an end."""

import os
import time

import pytest

from jaxneox.config import Settings
from jaxneox.config.divisors import divisors
from jaxneox.errors import UserError, listed
from jaxneox.parallel.divides import check_divides
from jaxneox.parallel.mesh import (
    give_threads,
    parse_mesh,
    prepare_devices,
    whole,
)
from tests.config.cases import SMALLEST

HUGE = {
    "num_layers": 10**9,
    "hidden_size": 10**9,
    "num_attention_heads": 10**9,
    "seq_length": 2**31 - 1,
    "padded_vocab_size": 2**31 - 1,
    "intermediate_size": 2**31 - 1,
    "train_iters": 10**20,
}


LARGE_BATCH = {n: v for n, v in SMALLEST.items() if "batch" not in n}
LARGE_BATCH["train_batch_size"] = 2 * (10**9 + 7)


@pytest.mark.parametrize("name", HUGE)
def test_a_size_that_no_model_has_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: found {HUGE[name]}"):
        Settings(SMALLEST | {name: HUGE[name]})


@pytest.mark.parametrize("number", [1, 2, 12, 36, 97, 1024])
def test_divisors(number: int) -> None:
    assert divisors(number) == [n for n in range(1, number + 1) if number % n == 0]


def test_a_huge_batch_is_divided_at_once() -> None:
    began = time.thread_time()
    batch = Settings(LARGE_BATCH).batch(dp=2)
    assert batch.micro == 10**9 + 7 and time.thread_time() - began < 1


def test_a_huge_mesh_is_refused_at_once() -> None:
    with pytest.raises(UserError, match="at most 1,048,576 devices"):
        parse_mesh("dp=1000000,tp=2")
    with pytest.raises(UserError, match="is not one of"):
        parse_mesh(f"dp={'9' * 5000}")
    with pytest.raises(UserError, match=r"makes at most 1,024 virtual ones"):
        prepare_devices(whole({"dp": 10**6}))
    model = Settings(SMALLEST).model(vocab_size=460)
    began = time.thread_time()
    with pytest.raises(UserError, match="nearest smaller"):
        check_divides(whole({"tp": 10**6}), model, Settings(SMALLEST).parallel, ring=False)
    assert time.thread_time() - began < 1


def test_a_line_has_an_end_too() -> None:
    line = str(UserError("file: found " + "x" * 10**6 + ", do this"))
    assert len(line) < 6000 and line.startswith("file: found x") and line.endswith("x, do this")
    assert str(UserError("short")) == "short"


def test_a_list_has_an_end() -> None:
    assert listed(["a", "b"]) == "a, b" and listed([]) == ""
    assert listed(range(10), most=2) == "0, 1 and 8 more"
    assert listed("abc", most=1, separator="; ") == "a; and 2 more"
    assert len(listed(["x" * 10**6] * 10**5)) < 2000
    with pytest.raises(UserError, match="and 2984 more") as raised:
        Settings(SMALLEST | {f"key_{k}": 1 for k in range(3000)})
    assert len(str(raised.value)) < 1000


def test_virtual_devices_have_threads_for_all_that_they_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With as many threads as cores a step hung whose collectives do not depend on each other."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setenv("NPROC", "7")
    give_threads(8)
    assert os.environ["NPROC"] == "7"  # as the user has set it
    monkeypatch.delenv("NPROC")
    give_threads(8)
    assert os.environ["NPROC"] == "16"
