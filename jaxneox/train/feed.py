"""From a loader's rows to a batch on the devices."""
# G global batch, A accumulation steps, B sequences of one of them, T length, R rows read here

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxneox.config.schema import BatchConfig
from jaxneox.data import Loader
from jaxneox.parallel.rules import Rules
from jaxneox.train.step import Batch


class Feed:
    """`feed(step)` is the batch of a step, cut into accumulation steps and split over dp.

    Consecutive rows of the global batch make one accumulation step, and within it one replica's
    micro-batch, as in NeoX. `first` is the run's step at which the loader's step 0 is due.

    Each process reads only the rows of which its own devices hold a part, each of them once.
    """

    def __init__(
        self, loader: Loader, batch: BatchConfig, mesh: Mesh, rules: Rules, first: int = 0
    ):
        self.loader, self.accumulation, self.first = loader, batch.accumulation, first
        self.sharding = NamedSharding(mesh, rules.activation(None, "batch", None))
        self.rows_AB = np.arange(loader.global_batch).reshape(self.accumulation, -1)
        held: Any = self.sharding.addressable_devices_indices_map((*self.rows_AB.shape, 1))
        self.rows_R = np.unique([row for at in held.values() for row in self.rows_AB[at[:2]].flat])

    def __call__(self, step: int) -> Batch:
        rows = self.rows_R.tolist()
        tokens_RT = self.loader.rows(step - self.first, rows)
        weights_RT = self.loader.loss_mask(step - self.first, rows)
        if weights_RT is None:
            weights_RT = np.ones((len(tokens_RT), tokens_RT.shape[1] - 1), np.float32)
        return Batch(self._lay(tokens_RT), self._lay(weights_RT))

    def _lay(self, read_RT: np.ndarray) -> jax.Array:
        def shard(at: Any) -> np.ndarray:
            return read_RT[np.searchsorted(self.rows_R, self.rows_AB[at[:2]])][..., at[2]]

        shape = (*self.rows_AB.shape, read_RT.shape[-1])
        return jax.make_array_from_callback(shape, self.sharding, shard)
