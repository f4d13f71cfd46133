"""Cuts a loader's rows into a batch on the devices."""
# G global batch, A accumulation steps, B sequences of one of them, R rows read here

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxneox.config.schema import BatchConfig
from jaxneox.data import Loader
from jaxneox.objectives import Batch
from jaxneox.parallel.rules import Rules
from jaxneox.train.step.curriculum import Curriculum


class Feed:
    """Makes a step's batch, `feed(step)`: cut into accumulation steps and split over dp.

    Consecutive rows of the global batch make one accumulation step, and within it one replica's
    micro-batch, as in NeoX. `first` is the run's step at which the loader's step 0 is due, and
    `curriculum` cuts the rows of each step, if it is given.

    Each process reads only the rows of which its own devices hold a part, each of them once.
    """

    def __init__(
        self,
        loader: Loader,
        batch: BatchConfig,
        mesh: Mesh,
        rules: Rules,
        first: int = 0,
        curriculum: Curriculum | None = None,
    ):
        self.loader, self.first, self.curriculum = loader, first, curriculum
        self.sequences = batch.global_size // batch.accumulation  # sequences at a time
        self.sharding = NamedSharding(mesh, rules.activation(None, "batch"))
        self.cut = functools.cache(self._cut)

    def _cut(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Number the rows of a global batch, cut, and list those that are read here."""
        rows_AB = np.arange(size).reshape(-1, self.sequences)
        held: Any = self.sharding.addressable_devices_indices_map((*rows_AB.shape, 1))
        return rows_AB, np.unique([row for at in held.values() for row in rows_AB[at[:2]].flat])

    def __call__(self, step: int) -> Batch:
        rows_AB, rows_R = self.cut(self.loader.sizes.size(step - self.first))
        fields = self.loader.fields(step - self.first, rows_R.tolist())
        if self.curriculum is not None:
            fields = self.curriculum.cut(fields, step)

        def on_devices(read_R: np.ndarray) -> jax.Array:
            def shard(at: Any) -> np.ndarray:
                return read_R[np.searchsorted(rows_R, rows_AB[at[:2]])]

            shape = (*rows_AB.shape, *read_R.shape[1:])
            return jax.make_array_from_callback(shape, self.sharding, shard)

        return {name: on_devices(read_R) for name, read_R in fields.items()}
