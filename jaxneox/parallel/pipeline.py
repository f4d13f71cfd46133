"""Layers in stages: each device holds some of them, and micro-batches pass through all.

Nothing here knows what a layer computes. All stages work at once on arrays with a leading axis p,
of which each stage holds one row; a tick is one such step and a shift around the ring.
"""
# M micro-batches, p stages, v chunks of layers for each, t ticks
# L layers, k layers of a chunk; of a weight or a sum those that have it
# B batch, T length, D hidden; * any other axes

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxneox.parallel.schedule import Schedule

Weights = dict[str, jax.Array]
Sums = dict[str, jax.Array]
"""Numbers by name that add up over micro-batches, of those layers that have them: [k, *]."""

Stage = Callable[[jax.Array, Weights, jax.Array, Any], tuple[jax.Array, Sums]]
"""(x [B, T, D], weights [k, *], the number of the first layer, rows) -> [B, T, D] and sums"""


@dataclass(frozen=True)
class Pipeline:
    """A pipeline of `stages` stages along a mesh axis, with `chunks` chunks of layers each."""

    axis: str
    stages: int
    chunks: int

    def __call__(
        self, stage: Stage, weights: Weights, layers: int, x_MBTD: jax.Array, rows_MB: Any
    ) -> tuple[jax.Array, Sums]:
        """Run the residual stream through all layers.

        Args:
            stage: computes the layers of one chunk.
            weights: those of all layers by name, [L, *], sharded as they are at rest.
            layers: how many layers there are; a chunk holds as many as another, of the same kinds.
            x_MBTD: the stream, whole on every stage.
            rows_MB: a tree of arrays [M, B, *] that belong to the micro-batches.

        Returns:
            [M, B, T, D], after all layers; and the sums [L, *] over all micro-batches.
        """
        schedule = Schedule(self.stages, self.chunks, x_MBTD.shape[0])
        staged = {name: self._split(w) for name, w in weights.items()}
        deep = layers // (self.chunks * self.stages)
        micro = np.maximum(schedule.micro_batch, 0)
        first = (schedule.chunk * self.stages + np.arange(self.stages)) * deep
        arriving = self._enter(_rows(x_MBTD, micro[:, 0]))
        ticks = (
            arriving,
            self._table(schedule.enters),
            self._table(schedule.micro_batch >= 0),
            self._table(schedule.chunk),
            self._table(first.astype(np.int32)),
            jax.tree.map(lambda rows: self._per_stage(rows, micro), rows_MB),
        )

        def tick(x_pBTD: jax.Array, now: Any) -> tuple[jax.Array, tuple[jax.Array, Sums]]:
            """Run every stage once and shift the results.

            A stage without work computes on zeros: what the ring brings could overflow in its
            layers, and 0 times infinity would be its share of the gradient.
            """
            arriving, enters, busy, chunk, first, rows = now
            x_pBTD = jnp.where(_stagewise(enters), arriving, x_pBTD)
            x_pBTD = jnp.where(_stagewise(busy), x_pBTD, jnp.zeros((), x_pBTD.dtype))
            y_pBTD, sums_pk = self._each(stage)(x_pBTD, self._chunk(staged, chunk), first, rows)
            return self._shift(y_pBTD), (y_pBTD, sums_pk)

        idle = jnp.zeros_like(arriving[0])
        _, (y_tpBTD, sums_tpk) = jax.lax.scan(tick, idle, ticks)
        sums = {name: self._added_up(x, schedule) for name, x in sums_tpk.items()}
        return self._leave(_rows(y_tpBTD, schedule.leaves_at)), sums

    def _each(self, stage: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
        """Apply `stage` to every stage's row at once."""
        return jax.vmap(stage, in_axes=in_axes, spmd_axis_name=self.axis)

    def _split(self, weight: jax.Array) -> jax.Array:
        """Divide layers [L, *], sharded as they are at rest, into [v, p, k, *], each on its stage.

        Layer l is in chunk l // (p k), on stage l // k % p.
        """
        layers, *rest = jax.typeof(weight).sharding.spec
        deep = weight.shape[0] // (self.chunks * self.stages)
        shape = (self.chunks, self.stages, deep, *weight.shape[1:])
        at_rest = jnp.reshape(weight, shape, out_sharding=P(None, layers, None, *rest))
        return jax.reshard(at_rest, P(None, self.axis, None, *map(self._without, rest)))

    def _without(self, entry: Any) -> Any:
        """Return a dimension's mesh axes without that of the stages."""
        names = (entry,) if isinstance(entry, str) else entry or ()
        kept = tuple(name for name in names if name != self.axis)
        return kept if len(kept) > 1 else kept[0] if kept else None

    def _chunk(self, weights_vpk: Weights, chunk_p: jax.Array) -> Weights:
        """Pick each stage's chunk of that number: [v, p, k, *] -> [p, k, *]."""
        if self.chunks == 1:
            return {name: w[0] for name, w in weights_vpk.items()}

        def pick(weight: jax.Array, chunk: jax.Array) -> jax.Array:
            return jax.lax.dynamic_index_in_dim(weight, chunk, keepdims=False)

        return {n: self._each(pick, (1, 0))(w, chunk_p) for n, w in weights_vpk.items()}

    def _shift(self, x_p: jax.Array) -> jax.Array:
        """Send to each stage what the one before it holds, and to the first what the last holds."""
        around = [(i, (i + 1) % self.stages) for i in range(self.stages)]
        spec = jax.typeof(x_p).sharding.spec
        send = partial(jax.lax.ppermute, axis_name=self.axis, perm=around)
        return jax.shard_map(send, in_specs=spec, out_specs=spec)(x_p)

    def _enter(self, x_t: jax.Array) -> jax.Array:
        """Put [t, *] on the first stage, and zeros on the others: [t, p, *]."""
        return self._only(0, x_t[:, None], x_t.ndim + 1)

    def _leave(self, y_Mp: jax.Array) -> jax.Array:
        """Take what the last stage holds, a partial sum over the stages: [M, p, *] -> [M, *]."""
        spec = jax.typeof(y_Mp).sharding.spec
        last = self._only(self.stages - 1, y_Mp, y_Mp.ndim)
        return jax.lax.reduce_sum(
            last, (1,), out_sharding=P(None, *spec[2:], unreduced={self.axis})
        )

    def _added_up(self, x_tpk: jax.Array, schedule: Schedule) -> jax.Array:
        """Add up what the layers of each chunk give in its ticks: [t, p, k, *] -> [L, *].

        Ticks in which a stage has no work do not count.
        """
        busy_tp = schedule.micro_batch >= 0
        chunks = np.arange(self.chunks) == schedule.chunk[..., None]
        counts_tpv = self._table((chunks & busy_tp[..., None]).astype(np.float32))
        busy = self._table(busy_tp).reshape(*busy_tp.shape, *(1,) * (x_tpk.ndim - 2))
        x_tpk = jnp.where(busy, x_tpk, jnp.zeros((), x_tpk.dtype))
        each = jnp.einsum("tpk...,tpv->vpk...", x_tpk, counts_tpv, precision="highest")
        each = jax.reshard(each, P())
        return each.reshape(-1, *each.shape[3:])

    def _only(self, stage: int, x: jax.Array, ndim: int) -> jax.Array:
        """Keep x [n, p, *] on one stage, and put zeros on the others."""
        stages = jnp.arange(self.stages).reshape(1, -1, *(1,) * (ndim - 2))
        here = jax.reshard(stages == stage, P(None, self.axis))
        return jnp.where(here, x, jnp.zeros((), x.dtype))

    def _table(self, rows: np.ndarray) -> jax.Array:
        """Give each stage its column of the schedule: [t, p]."""
        return jax.reshard(jnp.asarray(rows), P(None, self.axis))

    def _per_stage(self, rows_MB: jax.Array, micro_tp: np.ndarray) -> jax.Array:
        """Give each stage the rows of its micro-batch: [M, B, *] -> [t, p, B, *]."""
        _, *spec = jax.typeof(rows_MB).sharding.spec
        rows_MB = jax.reshard(rows_MB, P(None, *spec))
        return rows_MB.at[micro_tp].get(out_sharding=P(None, self.axis, *spec))


def _stagewise(flags_p: jax.Array) -> jax.Array:
    """Add three axes of size one after the stages: [p, 1, 1, 1]."""
    return flags_p[:, None, None, None]


def _rows(x: jax.Array, which: np.ndarray) -> jax.Array:
    """Pick rows along the leading axis, which is not split."""
    return x.at[which].get(out_sharding=P(None, *jax.typeof(x).sharding.spec[1:]))
