"""How likely given tokens are, with logits only for the positions that are asked for."""
# B batch, T length, C positions, c of them with logits at one time, n chunks, D hidden, V vocab

import jax
import jax.numpy as jnp

from jaxneox.model.layout import Layout, on_devices, platform
from jaxneox.model.loss import MAX_LOGITS, chunk_length, softmax
from jaxneox.model.unembedding import Unembedding, gathered, project

CPU_CHUNK = 64
"""Tokens with logits at one time on a CPU, whose caches count.

Measured 1.2 times faster than thousands with a vocabulary of 4,096, twice with one of 50,304.
"""


def scores(
    x_BTD: jax.Array,
    unembedding: Unembedding,
    positions_BC: jax.Array,
    labels_BC: jax.Array,
    layout: Layout,
) -> tuple[jax.Array, jax.Array]:
    """Score labels. The batch may be split over devices, the length may not.

    Args:
        x_BTD: the last hidden states, after the final norm.
        unembedding: turns them into logits.
        positions_BC: int [B, C], the positions to score after.
        labels_BC: int [B, C], the tokens to score.
        layout: how arrays lie on the devices.

    Returns:
        The labels' log-probabilities, float32 [B, C], and whether no token is likelier, bool [B,
        C].
    """
    unembedding = gathered(unembedding, layout)
    batch, count = labels_BC.shape
    width = unembedding.weight.shape[-1] // layout.parts("vocab")
    logits = batch // layout.parts("batch") * width
    limit = CPU_CHUNK * width if platform() == "cpu" else MAX_LOGITS
    chunk = chunk_length(count, logits, limit)
    rows = layout.activation("batch", None)
    positions_BC, labels_BC = jax.reshard(positions_BC, rows), jax.reshard(labels_BC, rows)
    x_BCD = hidden_at(x_BTD, positions_BC, layout)

    def score(some: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x_BcD, labels_Bc = some
        logits_BcV = project(x_BcD, unembedding, jnp.dtype("float32"))
        own_Bc = _label_logits(logits_BcV, labels_Bc, layout)
        best_Bc = jnp.max(logits_BcV, axis=-1)
        return own_Bc - softmax(logits_BcV).log_total, own_Bc >= best_Bc

    def split(x: jax.Array) -> jax.Array:
        """Cut [B, C, …] into [n, B, c, …]."""
        shape = (batch, count // chunk, chunk, *x.shape[2:])
        spec = layout.activation("batch", *(None,) * (len(shape) - 1))
        return jnp.moveaxis(jnp.reshape(x, shape, out_sharding=spec), 1, 0)

    def joined(x_nBc: jax.Array) -> jax.Array:
        spec = layout.activation("batch", None)
        return jnp.reshape(jnp.moveaxis(x_nBc, 0, 1), (batch, count), out_sharding=spec)

    logprob, likeliest = jax.lax.map(score, (split(x_BCD), split(labels_BC)))
    return joined(logprob), joined(likeliest)


def hidden_at(x_BTD: jax.Array, positions_BC: jax.Array, layout: Layout) -> jax.Array:
    """Pick the hidden states at each row's positions: [B, C, D]."""

    def local(x_BTD: jax.Array, positions_BC: jax.Array) -> tuple[jax.Array]:
        return (jnp.take_along_axis(x_BTD, positions_BC[..., None], axis=1),)

    states = ("batch", None, "embed")
    return on_devices(local, (states, ("batch", None)), (states,), layout)(x_BTD, positions_BC)[0]


def _label_logits(logits_BcV: jax.Array, labels_Bc: jax.Array, layout: Layout) -> jax.Array:
    """Pick the logits of the labels [B, c]; devices may split the vocabulary."""
    spec = layout.activation("vocab")
    numbers_V = jax.reshard(jnp.arange(logits_BcV.shape[-1], dtype=jnp.int32), spec)

    def local(logits: jax.Array, labels: jax.Array, numbers: jax.Array) -> tuple[jax.Array]:
        place = (labels - numbers[0])[..., None]
        here = (place >= 0) & (place < numbers.size)
        chosen = jnp.take_along_axis(logits, jnp.where(here, place, 0), axis=-1)
        return (jnp.where(here, chosen, 0),)

    split = ("batch", None, "vocab")
    run = on_devices(local, (split, ("batch", None), ("vocab",)), (split,), layout)
    return jnp.sum(run(logits_BcV, labels_Bc, numbers_V)[0], axis=-1)
