"""The optimizers that look at whole matrices, where these are cut over devices."""

import jax
import pytest

from jaxneox.config.schema import OptimizerConfig, ParallelConfig
from tests.reference.compare import worst_leaf
from tests.train.running import Runner, config, tokens

OPTIMIZERS = {  # Adafactor is cut into matrices by the same code as SM3
    "sm3": OptimizerConfig("sm3", lr=1e-2, momentum=0.9, eps=1e-30, extra={"beta": 0.9}),
    "muon": OptimizerConfig("muon", lr=1e-2, momentum=0.95),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_update_on_every_mesh(name: str) -> None:
    def after_two_steps(zero, **sizes: int):
        cfg = config(optimizer=OPTIMIZERS[name], parallel=ParallelConfig(zero_stage=zero))
        runner = Runner(cfg, **sizes)
        for step in range(2):
            runner(tokens(step))
        return jax.device_get(runner.state.params)

    # the bound of the meshes for Adam: its roots, too, make much of small differences
    error, leaf = worst_leaf(after_two_steps(1, dp=2, tp=2), after_two_steps(0))
    assert error <= 1e-5, leaf
