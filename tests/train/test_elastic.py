"""A run goes on at another dp, with the same batches if the global batch is the same."""

import numpy as np
import pytest

from tests.train.elastic import BOUND, CIRCLE, SEQUENCE, Runs
from tests.train.runs import error, losses, metrics, succeeds, write_yaml


@pytest.mark.slow
def test_dp_2_to_dp_3_at_the_same_global_batch(tmp_path) -> None:
    yaml = write_yaml(tmp_path, train_batch_size=6, train_iters=6, checkpoint_factor=3)
    succeeds(yaml, "--mesh", "dp=2", "--save", tmp_path / "two")
    for mesh in ("dp=3", "dp=3,tp=2"):
        save = tmp_path / mesh
        succeeds(tmp_path / "two/step_3", "--mesh", mesh, "--save", save)
        assert [row["step"] for row in metrics(save)] == [4, 5, 6]
        # a float32's precision a step: the gradients are added in another order
        np.testing.assert_allclose(losses(save), losses(tmp_path / "two")[3:], rtol=1e-6)


@pytest.mark.slow
def test_another_global_batch_is_other_data(tmp_path) -> None:
    yaml = write_yaml(tmp_path, train_iters=2, checkpoint_factor=2)
    succeeds(yaml, "--mesh", "dp=2", "--save", tmp_path / "run")
    more = ("--set", "train-iters=4", "train-batch-size=6")
    assert "global_batch was 4 and is 6" in error(tmp_path / "run", "--mesh", "dp=3", *more)


@pytest.mark.slow
def test_from_stages_with_chunks_to_tensor_parallel(tmp_path) -> None:
    """`make matrix` does more pairs."""
    assert Runs(tmp_path).difference(CIRCLE, SEQUENCE) <= BOUND
