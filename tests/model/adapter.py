"""The JAX side of the comparisons: numpy in, numpy out, one device, float32."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxneox.config.schema import (
    BatchConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    LogConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    PrecisionConfig,
    RematConfig,
    ScheduleConfig,
    TokenizerConfig,
    TrainConfig,
)
from jaxneox.model import Model
from jaxneox.parallel.mesh import make_mesh
from jaxneox.parallel.rules import Rules, rules_for
from jaxneox.train.plan import build_plan
from jaxneox.train.step.state import on_mesh, state_specs, with_params
from jaxneox.train.step.step import build_step
from tests.parallel.meshes import HASTE

Arrays = Mapping[str, np.ndarray]


def jax_logits(cfg: ModelConfig, params: Arrays, tokens_BT: np.ndarray) -> np.ndarray:
    """Logits float32 [B, T, V] of int tokens [B, T]."""
    with one_device(cfg) as model:
        return np.asarray(jax.jit(model.logits)(*on_device(params, tokens_BT)))


def jax_loss(
    cfg: ModelConfig, params: Arrays, tokens_BT: np.ndarray, labels_BT: np.ndarray
) -> float:
    """The mean cross-entropy in nats."""
    with one_device(cfg) as model:
        return float(jax.jit(mean_loss(model))(*on_device(params, tokens_BT, labels_BT)))


def jax_loss_and_grads(
    cfg: ModelConfig, params: Arrays, tokens_BT: np.ndarray, labels_BT: np.ndarray
) -> tuple[float, dict[str, np.ndarray]]:
    """The mean cross-entropy in nats and its gradient by every leaf."""
    with one_device(cfg) as model:
        value_and_grad = jax.jit(jax.value_and_grad(mean_loss(model)), compiler_options=HASTE)
        loss, grads = value_and_grad(*on_device(params, tokens_BT, labels_BT))
        return float(loss), {name: np.asarray(g) for name, g in grads.items()}


def jax_train_losses(
    cfg: ModelConfig, params: Arrays, batches: Sequence[np.ndarray], optimizer: OptimizerConfig
) -> list[float]:
    """The loss of each batch of tokens [B, T + 1] before its step, at a constant learning rate."""
    config = whole_run(cfg, optimizer, batches)
    with one_device(cfg) as model:
        plan = replace(build_plan(config, SIZES), model=model)
        step = build_step(plan, make_mesh(SIZES))
        specs = on_mesh(make_mesh(SIZES), state_specs(plan))
        state = jax.jit(partial(with_params, plan), out_shardings=specs)(*on_device(params))
        losses = []
        for tokens in batches:
            weights = jnp.ones((1, tokens.shape[0], tokens.shape[1] - 1), jnp.float32)
            batch = {"tokens": jnp.asarray(tokens[None], jnp.int32), "weights": weights}
            state, figures = step(state, batch)
            losses.append(float(figures["loss"]))
        return losses


SIZES = {"dp": 1, "tp": 1}
ONE_DEVICE: Rules = rules_for(SIZES, zero_stage=0, sequence_parallel=False)


@contextmanager
def one_device(cfg: ModelConfig) -> Iterator[Model]:
    with jax.set_mesh(make_mesh(SIZES)):
        yield Model(cfg, ONE_DEVICE)


def whole_run(
    cfg: ModelConfig, optimizer: OptimizerConfig, batches: Sequence[np.ndarray]
) -> Config:
    size = batches[0].shape[0]
    return Config(
        model=cfg,
        precision=PrecisionConfig(),
        optimizer=optimizer,
        schedule=ScheduleConfig("constant", lr=optimizer.lr, decay_iters=len(batches)),
        parallel=ParallelConfig(),
        batch=BatchConfig(global_size=size, micro=size, accumulation=1),
        remat=RematConfig(),
        tokenizer=TokenizerConfig(),
        data=DataConfig(),
        checkpoint=CheckpointConfig(),
        log=LogConfig(),
        train=TrainConfig(train_iters=len(batches)),
    )


def mean_loss(model: Model) -> Any:
    def mean(params: dict[str, jax.Array], tokens: jax.Array, labels: jax.Array) -> jax.Array:
        weights = jnp.ones(labels.shape, jnp.float32)
        return model.loss_sum(params, tokens[None], labels[None], weights[None]) / labels.size

    return mean


def on_device(params: Arrays, *tokens: np.ndarray) -> tuple[Any, ...]:
    leaves = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in params.items()}
    return leaves, *(jnp.asarray(x, jnp.int32) for x in tokens)
