"""Both sides of the bench do the same: the same parameters, the same losses, as many tokens."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("transformers", reason="needs the torch extra")
import torch
from transformers import GPTNeoXForCausalLM

import jaxneox
from convert import from_hf
from jaxneox.train.step.state import with_params
from tests.bench import sizes
from tests.bench.ours import data, decode
from tests.bench.ours import train as ours_train
from tests.bench.ours.model import plan_of
from tests.bench.sizes import SIZES, Case, Size
from tests.bench.theirs import decode as their_decode
from tests.bench.theirs import train as their_train
from tests.bench.theirs.model import model_of
from tests.convert.commands import call

TINY = Size(2, 32, 4)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SIZES, "tiny", TINY)


@pytest.mark.parametrize("size", SIZES)
def test_as_many_parameters(size: str) -> None:
    case = Case(size, 1, 512)
    with torch.device("meta"):
        theirs = GPTNeoXForCausalLM(case.theirs())
    assert plan_of(case).parameters == sum(w.numel() for w in theirs.parameters())


@pytest.mark.slow
def test_the_same_steps(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three losses from the same weights: data, loss, clipping and AdamW are the same. 1e-5 is some
    ten times what float32's order of additions changes; a step changes the loss by 1e-3."""
    case = Case("tiny", 2, 16)
    model_of(case).save_pretrained(tmp_path / "hf")
    call(from_hf, tmp_path / "hf", tmp_path / "ours", "--no-verify")
    params = {n: np.asarray(w) for n, w in jaxneox.load(str(tmp_path / "ours")).params.items()}
    new_state = "jaxneox.train.checkpoints.restore.new_state"
    monkeypatch.setattr(new_state, lambda plan: with_params(plan, params))
    ours, theirs = ours_train.prepare(case), their_train.eager(case)
    losses = [(ours(), theirs()) for _ in range(3)]
    assert losses[0][0] - losses[1][0] > 1e-4
    for found, expected in losses:
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_as_many_new_tokens(tiny: None) -> None:
    case = Case("tiny", 2, 8, new=5)
    for prepare in (decode.prepare, their_decode.eager):
        assert [len(answer) for answer in prepare(case)()] == [5, 5]


def test_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader and the peer's rows: as many tokens, of the same documents."""
    pytest.importorskip("datasets", reason="needs lm-eval's datasets")
    from tests.bench.theirs import data as their_data

    for module in (data, their_data):
        monkeypatch.setattr(module, "BATCHES", 2)
    case = Case("70m", 3, 64, folder=str(tmp_path))
    data.write(case)()
    loader, rows = data.loader_of(case), their_data.rows_of(case)
    ours = np.concatenate([loader.batch(step) for step in range(3)])
    theirs = next(their_data.endless(rows, 9))
    assert ours.shape == theirs.shape == (9, 65)
    assert ours.dtype == theirs.dtype == np.int32
    known = set(np.fromfile(tmp_path / "documents.bin", np.uint16).tolist())
    assert {*ours.flat, *theirs.flat} <= known
