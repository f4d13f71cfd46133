"""Where arrays lie, as the model sees it: by logical axis names, never by mesh axes."""

from typing import Protocol

from jax.sharding import PartitionSpec


class Layout(Protocol):
    """Translates logical axes into shardings. `parallel.rules` has the one implementation."""

    def activation(self, *axes: str | None) -> PartitionSpec:
        """The sharding of an activation whose dimensions are named so."""

    def partial(self, *axes: str | None, over: str) -> PartitionSpec:
        """The same, of a sum that is still to be added up over the devices that split `over`."""

    def feeds(self, *axes: str | None, into: str) -> PartitionSpec:
        """The same, of the input to matrices whose output is split along `into`.

        Its gradient is a partial sum, so that several matrices share one reduction.
        """

    def parts(self, *axes: str | None) -> int:
        """How many devices split an activation between them."""

    def weight(self, *axes: str) -> PartitionSpec:
        """The sharding in which a layer computes with a weight."""
