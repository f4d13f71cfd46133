"""A few parameters of every kind that the model has, their gradients, and ten steps on them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxneox.config.schema import OptimizerConfig, ScheduleConfig
from jaxneox.optim.matrices import Axes
from jaxneox.optim.optimizer import build_optimizer

Arrays = dict[str, np.ndarray]

STEPS, HORIZON = 10, 20
AXES: Axes = {
    "embed.tokens": ("vocab", "embed"),
    "embed.rpe": ("buckets", "kv_heads", "group"),
    "layers.norm1.scale": ("layers", "embed"),
    "layers.attention.qkv": ("layers", "embed", "kv_heads", "group", "head"),
    "layers.attention.qkv_bias": ("layers", "kv_heads", "group", "head"),
    "layers.attention.out": ("layers", "kv_heads", "group", "head", "embed"),
    "layers.mlp.up": ("layers", "embed", "mlp"),
    "layers.mlp.down": ("layers", "mlp", "embed"),
    "final_norm.g": ("one",),
    "unembed.weight": ("embed", "vocab"),
    "unembed.bias": ("vocab",),
}
SPARED = {"layers.norm1.scale", "layers.attention.qkv_bias", "final_norm.g", "unembed.bias"}
ROWS = {  # how many of a matrix's leading sizes (without the layers) are its rows
    "embed.tokens": 1,
    "layers.attention.qkv": 1,
    "layers.attention.out": 3,
    "layers.mlp.up": 1,
    "layers.mlp.down": 1,
    "unembed.weight": 1,
}


def random_arrays(seed: int, embed: int = 6) -> Arrays:
    """Normal numbers for every parameter, each with a scale of its own."""
    sizes = {"layers": 2, "vocab": 10, "embed": embed, "kv_heads": 2, "group": 3, "head": 4}
    sizes |= {"mlp": 2 * embed, "buckets": 5, "one": 1}
    random = np.random.default_rng(seed)
    return {
        name: (random.uniform(0.1, 2) * random.normal(size=[sizes[axis] for axis in axes])).astype(
            np.float32
        )
        for name, axes in AXES.items()
    }


def gradients(embed: int = 6) -> list[Arrays]:
    return [random_arrays(100 + step, embed) for step in range(STEPS)]


def rate(cfg: OptimizerConfig, step: int) -> float:
    """Falls linearly, so that an optimizer that miscounts its steps is found out."""
    return cfg.lr * (HORIZON - step) / HORIZON


def ours(cfg: OptimizerConfig, embed: int = 6) -> Arrays:
    """The parameters after all steps."""
    schedule = ScheduleConfig("linear", lr=cfg.lr, decay_iters=HORIZON)
    optimizer = build_optimizer(cfg, schedule, AXES)

    @jax.jit
    def run(params, grads):
        def step(carry, grads):
            params, state = carry
            updates, state = optimizer.update(grads, state, params)
            return (jax.tree.map(jnp.add, params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), grads)[0][0]

    stacked = {name: np.stack([g[name] for g in gradients(embed)]) for name in AXES}
    return jax.device_get(run(random_arrays(0, embed), stacked))


def by_layer(update: Callable[[str, np.ndarray, np.ndarray], np.ndarray], embed: int = 6) -> Arrays:
    """`update(name, first values, gradients [step, ...])` of each matrix [rows, columns] or vector
    on its own, put together again."""
    start, grads = random_arrays(0, embed), gradients(embed)
    ends = {}
    for name, axes in AXES.items():
        values, slopes = start[name], np.stack([g[name] for g in grads])
        if axes[0] != "layers":
            ends[name] = _alone(update, name, values, slopes)
            continue
        layers = [_alone(update, name, values[i], slopes[:, i]) for i in range(len(values))]
        ends[name] = np.stack(layers)
    return ends


def _alone(update, name: str, values: np.ndarray, grads: np.ndarray) -> np.ndarray:
    shape = values.shape
    rows = int(np.prod(shape[: ROWS[name]])) if name in ROWS else values.size
    flat = (rows, -1) if name in ROWS else (-1,)
    moved = update(name, values.reshape(flat), grads.reshape(len(grads), *flat))
    return np.asarray(moved).reshape(shape)
