"""From a loader's rows to a batch on the devices."""
# G global batch, A accumulation steps, B sequences of one of them, T length

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
    """

    def __init__(
        self, loader: Loader, batch: BatchConfig, mesh: Mesh, rules: Rules, first: int = 0
    ):
        self.loader, self.accumulation, self.first = loader, batch.accumulation, first
        self.sharding = NamedSharding(mesh, rules.activation(None, "batch", None))

    def __call__(self, step: int) -> Batch:
        tokens_GT = self.loader.batch(step - self.first)
        weights_GT = self.loader.loss_mask(step - self.first)
        if weights_GT is None:
            weights_GT = np.ones((len(tokens_GT), tokens_GT.shape[1] - 1), np.float32)
        return Batch(self._cut(tokens_GT), self._cut(weights_GT))

    def _cut(self, rows: np.ndarray) -> jax.Array:
        cut = rows.reshape(self.accumulation, -1, rows.shape[-1])
        return jax.device_put(cut, self.sharding)
