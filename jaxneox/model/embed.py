"""The embeddings of tokens and of their positions, before the first layer."""
# * any axes before the length T, V padded vocabulary, D hidden, P rows of positions
# K key-value heads, G query heads for each of them

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from jaxneox.config.schema import ModelConfig
from jaxneox.model.gather import reshard_in_steps
from jaxneox.model.layout import Entry, entry_of, mesh_axes
from jaxneox.model.multiplied import multiplied
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
        self.multipliers = cfg.multipliers

    def __call__(
        self, tokens: jax.Array, positions: jax.Array, spec: PartitionSpec, dtype: jnp.dtype
    ) -> jax.Array:
        """Embed tokens at positions.

        The sums are float32, because the gradient of a frequent token has many terms. Where devices
        store parts of the table's width, each looks up all tokens in its part: the table is not
        gathered, and neither is its gradient added up over devices. What is sent is the result.

        Args:
            tokens: int [*, T].
            positions: int [T], or [*, T] if those of the rows differ.
            spec: the sharding of the result.
            dtype: of the result.

        Returns:
            [*, T, D].
        """
        table = self.tokens[...]
        width = jax.typeof(table).sharding.spec.partitions[-1]
        along = _without(spec, width)
        tokens = jax.reshard(tokens, PartitionSpec(*along.partitions[:-1]))
        if positions.ndim > 1:
            positions = jax.reshard(positions, PartitionSpec(*along.partitions[:-1]))
        x = multiplied(table.at[tokens].get(out_sharding=along), self.multipliers.embedding)
        if (more := self._of_positions(positions, x)) is not None:
            x = x + multiplied(more, self.multipliers.positions)
        return reshard_in_steps(x.astype(dtype), spec)

    def _of_positions(self, positions: jax.Array, x: jax.Array) -> jax.Array | None:
        """Make what is added to x [*, T, D] for its positions, split along D as it is."""
        *split, width = jax.typeof(x).sharding.spec
        if positions.ndim == 1:  # of all rows alike
            positions = jnp.expand_dims(positions, tuple(range(x.ndim - 2)))
            split = [None] * (x.ndim - 1)
        spec = PartitionSpec(*split, width)
        if self.positions is not None:
            return self.positions[...].at[positions + self.offset].get(out_sharding=spec)
        if self.sinusoidal:
            return jax.reshard(sinusoids(positions, x.shape[-1]), spec)
        return None


def _without(spec: PartitionSpec, width: Entry) -> PartitionSpec:
    """Return a sharding [*, T, D] in which the mesh axes of `width` split nothing but D."""
    taken = set(mesh_axes(width))

    def rest(entry: Entry) -> Entry:
        return entry_of(tuple(name for name in mesh_axes(entry) if name not in taken))

    return PartitionSpec(*map(rest, spec.partitions[:-1]), width)
