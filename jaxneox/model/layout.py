"""Where arrays lie, as the model sees it: by logical axis names, never by mesh axes."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import PartitionSpec
from numpy.typing import NDArray


class Pipeline(Protocol):
    """Layers in stages; `parallel.pipeline` has it."""

    def __call__(
        self, stage: Callable[..., jax.Array], weights: Any, x_MBTD: jax.Array, rows_MB: Any
    ) -> jax.Array: ...


class Ring(Protocol):
    """Devices in a ring between which a sequence is split; `parallel.ring` has it."""

    @property
    def axis(self) -> str: ...

    @property
    def count(self) -> int: ...


class Layout(Protocol):
    """Translates logical axes into shardings. `parallel.rules` has the one implementation."""

    def activation(self, *axes: str | None) -> PartitionSpec:
        """The sharding of an activation whose dimensions are named so."""

    def partial(self, *axes: str | None, over: str | tuple[str, ...]) -> PartitionSpec:
        """The same, of a sum that is still to be added up over the devices that split `over`."""

    def feeds(self, *axes: str | None, into: str) -> PartitionSpec:
        """The same, of the input to matrices whose output is split along `into`.

        Its gradient is a partial sum, so that several matrices share one reduction.
        """

    def parts(self, *axes: str | None) -> int:
        """How many devices split an activation between them."""

    def weight(self, *axes: str) -> PartitionSpec:
        """The sharding in which a layer computes with a weight."""

    def spread(self, micro: int) -> str | None:
        """The axis name of `micro` micro-batches outside the layers, None where all hold all."""

    def order(self, length: int) -> NDArray[np.int32]:
        """The positions of a sequence in the order in which the devices hold them."""

    @property
    def pipeline(self) -> Pipeline | None:
        """None where all layers are on all devices."""

    @property
    def rings(self) -> Ring | None:
        """None where attention sees whole sequences of keys and values."""
