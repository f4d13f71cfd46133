"""One tiny run, step by step, on any mesh."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxneox.config.schema import (
    AttentionConfig,
    Config,
    MlpConfig,
    ModelConfig,
    OptimizerConfig,
    PositionConfig,
    RematConfig,
    ScheduleConfig,
)
from jaxneox.parallel.mesh import make_mesh
from jaxneox.train.plan import build_plan
from jaxneox.train.step.state import TrainState, on_mesh, state_specs, with_params
from tests.model.adapter import HASTE
from tests.parallel import meshes
from tests.reference.parameters import random_params

BATCH, LENGTH, VOCAB = 4, 8, 32

MODEL = ModelConfig(
    num_layers=2,
    hidden_size=16,
    vocab_size=VOCAB,
    seq_length=LENGTH,
    attention=AttentionConfig(num_heads=4, kv_heads=4, head_dim=4),
    mlp=MlpConfig(size=24, activation="gelu_tanh"),
    positions=PositionConfig(kind="rotary", max_positions=LENGTH),
    parallel_residual=True,
    tied_embedding=False,
)
DROPPING = dataclasses.replace(
    MODEL, hidden_dropout=0.1, attention=dataclasses.replace(MODEL.attention, dropout=0.1)
)
CHANGES = {
    "optimizer": OptimizerConfig("adam", lr=1e-2, grad_clip=1.0),
    "schedule": ScheduleConfig("linear", lr=1e-2, decay_iters=10, warmup_iters=2),
    "remat": RematConfig(),
}


def config(model: ModelConfig = MODEL, **changes: Any) -> Config:
    return meshes.config(model, meshes.Mesh(), **CHANGES | changes)


def tokens(step: int = 0) -> np.ndarray:
    random = np.random.default_rng(100 + step)
    return random.integers(0, VOCAB, (BATCH, LENGTH + 1)).astype(np.int32)


class Runner:
    """Compiles the step once; `state` is what it stands at."""

    def __init__(self, cfg: Config, dp: int = 1, tp: int = 1, accumulation: int = 1):
        plan = build_plan(cfg, {"dp": dp, "tp": tp})
        self.mesh, self.accumulation, self.plan = make_mesh(plan.sizes), accumulation, plan
        shardings = on_mesh(self.mesh, state_specs(plan))
        self.step = jax.jit(meshes.Probe(plan), compiler_options=HASTE)
        with jax.set_mesh(self.mesh):
            weights = jax.device_put(random_params(cfg.model, 0), shardings.params)
            start = jax.jit(partial(with_params, plan), out_shardings=shardings)
            self.state: TrainState = start(weights)

    def __call__(self, rows: np.ndarray, weights: np.ndarray | None = None) -> dict[str, Any]:
        """One step on tokens [B, T + 1] and their weights [B, T]; its figures and gradients."""
        if weights is None:
            weights = np.ones((len(rows), LENGTH), np.float32)
        batch = {"tokens": rows, "weights": weights}
        cut = {name: x.reshape(self.accumulation, -1, *x.shape[1:]) for name, x in batch.items()}
        with jax.set_mesh(self.mesh):
            lay = NamedSharding(self.mesh, P(None, "dp", None))
            self.state, figures = self.step(self.state, jax.device_put(cut, lay))
            return jax.device_get(figures)
