"""Trains a model for some steps at one width, and measures its activations before and after each.

As in mup's coord check (`mup/coord_check.py`), one batch is learned over and over, so that the
updates add up. What is measured besides an activation's size is how far it has moved since the
start, which does not hide behind what the first values give it.
"""
# B rows, T length, k steps

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxneox.config import Settings
from jaxneox.config.batch import GLOBAL, LARGEST_MICRO, MICRO, uncut
from jaxneox.errors import UserError
from jaxneox.model.taps import choose
from jaxneox.objectives import WEIGHTS
from jaxneox.parallel.mesh import make_mesh, whole
from jaxneox.train.plan import TrainPlan, build_plan
from jaxneox.train.step.state import new_state, state_shardings
from jaxneox.train.step.step import build_step

LOGITS = "logits"
LEFT_OUT = ("save", "load", "finetune", "fp16", "bf16", "rampup_batch_size", "warmup_iters")
CONSTANT: dict[str, Any] = {
    "precision": "fp32",
    "lr_decay_style": "constant",
    "warmup": 0.0,
    "min_lr": 0.0,
    "decay_lr_to": None,
    "model_parallel_size": 1,
    "pipe_parallel_size": 0,
    "context_parallel_size": 1,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
}
"""What is not as in the run: only the model's function, and how it learns, are of interest."""


class Coordinates(NamedTuple):
    """The activations of a model at one width; each list has the start and every step.

    Attributes:
        sizes: by activation, the mean absolute size.
        moved: by activation, the mean absolute distance from the start.
    """

    sizes: dict[str, list[float]]
    moved: dict[str, list[float]]


def measure(
    keys: Mapping[str, Any], width: int, *, steps: int, rows: int, length: int, seed: int = 0
) -> tuple[Coordinates, tuple[str, ...]]:
    """Train a model of one width on one batch of random tokens.

    Args:
        keys: of the run, whose hidden size is replaced.
        width: the hidden size.
        steps: how many updates are made.
        rows: of the batch.
        length: tokens of a row, at most the model's.
        seed: of the tokens; the first values are drawn by the run's own.

    Returns:
        The coordinates, and what the configuration has to say.

    Raises:
        UserError: the model cannot have this width.
    """
    cfg = settings_of(keys, width, rows, steps).resolve(dp=1, vocab_size=None)
    plan = build_plan(cfg, whole({}))
    shape = (1, rows, min(length, cfg.model.seq_length) + 1)
    tokens = np.random.default_rng(seed).integers(0, cfg.model.vocab_size, shape, dtype=np.int32)
    return trained(plan, tokens, steps), cfg.notes


def settings_of(keys: Mapping[str, Any], width: int, rows: int, steps: int) -> Settings:
    """Return the settings of a model of one width, for one device and a constant rate.

    Raises:
        UserError: the model is trained for something else than the next token.
    """
    if keys.get("train_impl", "normal") != "normal":
        raise UserError("coord-check: train_impl must be normal: leave it out of the configuration")
    own = {n: value for n, value in uncut(keys).items() if n not in LEFT_OUT}
    own |= CONSTANT | {"hidden_size": width, "train_iters": steps, "lr_decay_iters": None}
    return Settings(own | {GLOBAL: rows, MICRO: rows, LARGEST_MICRO: None})


def trained(plan: TrainPlan, tokens_ABT: np.ndarray, steps: int) -> Coordinates:
    """Measure at the start and after every step."""
    mesh = make_mesh(plan.mesh_sizes)
    weights = np.ones(tokens_ABT[..., 1:].shape, np.float32)
    batch = {"tokens": tokens_ABT, WEIGHTS: weights}
    taps = choose("layers.*.residual", plan.cfg.model)
    with jax.set_mesh(mesh):
        start = jax.jit(partial(new_state, plan), out_shardings=state_shardings(plan, mesh))
        state, step = start(), build_step(plan, mesh)

        @jax.jit
        def activations(params: Any) -> dict[str, jax.Array]:
            logits, kept = plan.model.trace(params, jnp.asarray(tokens_ABT[0, :, :-1]), taps)
            return kept | {LOGITS: logits}

        first = jax.device_get(activations(state.params))
        found = [first]
        for _ in range(steps):
            state, _ = step(state, jax.device_put(batch))
            found.append(jax.device_get(activations(state.params)))
    return Coordinates(
        {name: [_size(x[name]) for x in found] for name in first},
        {name: [_size(x[name] - first[name]) for x in found] for name in first},
    )


def _size(x: np.ndarray) -> float:
    return float(np.abs(x.astype(np.float64)).mean())
