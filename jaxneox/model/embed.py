"""The embeddings of tokens and of their positions, before the first layer."""
# * any axes before the length T, V padded vocabulary, D hidden, P rows of positions
# K key-value heads, G query heads for each of them

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from jaxneox.config.schema import ModelConfig
from jaxneox.model.param import initializer, param, xavier_normal
from jaxneox.model.positions import sinusoids


class Embed(nnx.Module):
    """The tables of tokens, of learned positions and of relative positions (`rpe`)."""

    def __init__(self, cfg: ModelConfig, rngs: nnx.Rngs):
        init, D = initializer(cfg.init.method, cfg), cfg.hidden_size
        self.tokens = param(rngs, ("vocab", "embed"), init, V=cfg.vocab_size, D=D)
        kind, rows = cfg.positions.kind, cfg.positions.max_positions
        learned = kind == "learned"
        self.positions = param(rngs, ("positions", "embed"), init, P=rows, D=D) if learned else None
        sizes = {"K": cfg.attention.kv_heads, "G": cfg.attention.group}
        buckets, axes = cfg.positions.rpe_buckets, ("buckets", "kv_heads", "group")
        rpe = kind == "rpe"
        self.rpe = param(rngs, axes, xavier_normal, buckets=buckets, **sizes) if rpe else None
        self.offset, self.sinusoidal = cfg.positions.offset, kind == "sinusoidal"

    def __call__(self, tokens: jax.Array, positions: jax.Array, spec: PartitionSpec) -> jax.Array:
        """Embed tokens [*, T] at positions [T] or [*, T]: float32 [*, T, D], laid out as `spec`.

        In float32, because the gradient of a frequent token is one sum of many terms.
        """
        x = self.tokens[...].at[tokens].get(out_sharding=spec)
        if positions.ndim == 1:  # of all rows alike
            positions = jnp.expand_dims(positions, tuple(range(tokens.ndim - 1)))
            spec = PartitionSpec(*(None,) * tokens.ndim, spec[-1])
        if self.positions is not None:
            return x + self.positions[...].at[positions + self.offset].get(out_sharding=spec)
        return x + sinusoids(positions, x.shape[-1]) if self.sinusoidal else x
