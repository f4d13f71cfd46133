"""A model that learns longer texts than it was trained on."""

from pathlib import Path

import numpy as np
import pytest

import jaxneox
from jaxneox.config.schema import RopeScaling
from tests.train.runs import command, succeeds, write_yaml

LONGER = (
    *("seq-length=32", "max-position-embeddings=32", "rope-scaling.type=yarn"),
    *("rope-scaling.factor=2", "rope-scaling.original-max-position-embeddings=16"),
)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Two steps on texts of 16."""
    yaml = write_yaml(tmp_path)
    succeeds(yaml, "--mesh", "dp=1", "--save", tmp_path / "run", "--set", "train-iters=2")
    return tmp_path / "run"


@pytest.mark.slow
def test_weights_go_on_with_longer_texts(trained: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer"
    options = ("--finetune", "--save", longer, "--mesh", "dp=1", "--set", "train-iters=2", *LONGER)
    outcome = command(trained, *options)
    assert outcome.code == 0, outcome.err
    assert "positions.scaling.type is default there and yarn here" in outcome.out + outcome.err
    model = jaxneox.load(longer)
    scaling = model.config.model.positions.scaling
    assert scaling == RopeScaling("yarn", 2.0, 16, scaling.attention_factor)
    assert np.isfinite(np.asarray(model(np.arange(32)[None]))).all()


def test_a_run_does_not_go_on_as_another_function(trained: Path) -> None:
    outcome = command(trained, "--mesh", "dp=1", "--set", "train-iters=4", *LONGER)
    assert outcome.code == 2
    assert "positions.scaling.factor is 1.0 there and 2.0 here" in outcome.err


@pytest.mark.slow
def test_a_rotary_run_goes_on_with_longer_texts(trained: Path) -> None:
    """Nothing in it depends on max_position_embeddings; its optimizer goes on as well."""
    longer = ("--mesh", "dp=1", "--allow-data-change", "--set", "train-iters=4", "seq-length=32")
    outcome = command(trained, *longer)
    assert outcome.code == 0, outcome.err
    assert "max_position_embeddings 16 is less than seq_length 32: no learned" in outcome.out
    assert jaxneox.load(trained).config.model.positions.max_positions == 32
    outcome = command(trained, *longer, "max-position-embeddings=64", "train-iters=6")
    assert outcome.code == 0, outcome.err


def test_learned_positions_have_the_rows_that_they_have(tmp_path: Path) -> None:
    yaml = write_yaml(tmp_path, pos_emb="learned")
    run = tmp_path / "run"
    succeeds(yaml, "--mesh", "dp=1", "--save", run, "--set", "train-iters=2")
    outcome = command(run, "--mesh", "dp=1", "--set", "train-iters=3", "max-position-embeddings=32")
    assert outcome.code == 2
    assert "positions.max_positions is 16 there and 32 here" in outcome.err
