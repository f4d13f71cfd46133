"""A mesh on hosts of GPUs: NVLink within a host, the network between hosts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxneox.hlo.sent import Row
from jaxneox.plan.chips import HostLinks
from jaxneox.plan.topology import Topology

ONE_TO_ONE = ("collective-permute", "collective-broadcast")
EACH_TO_EACH = ("all-to-all", "ragged-all-to-all")


@dataclass(frozen=True)
class SwitchedLinks:
    """A mesh on hosts whose GPUs reach each other through a switch.

    Attributes:
        topology: the hosts.
        sizes: of the mesh.
        hosts: the host of each device, int, as the mesh's own array.
    """

    topology: Topology
    sizes: Mapping[str, int]
    hosts: np.ndarray

    def seconds(self, row: Row) -> float:
        """Estimate the seconds that collectives take.

        Rings on two levels work at the same time, and the slower one counts: of a group of `g` GPUs
        on each of `h` hosts, a GPU takes (g - 1) / g of the payload by NVLink, and (h - 1) / h of
        it come to a host through the adapters of its `g`. An all-reduce is twice that; in an
        all-to-all each GPU sends its n-th part to each other; a permute sends all of it to one.

        Source: Austin et al. 2025, How to scale your model, section 12.
        """
        count, hosts = self._group(row)
        on_host = count / hosts
        links = self._links
        if row.kind in ONE_TO_ONE:
            return row.bytes / (links.network if hosts > 1 else links.nvlink)
        if row.kind in EACH_TO_EACH:
            inside, between = (on_host - 1) / count, (count - on_host) / count
        else:
            inside, between = (on_host - 1) / on_host, (hosts - 1) / hosts / on_host
        times = 2 if row.kind == "all-reduce" else 1
        return times * row.bytes * max(inside / links.nvlink, between / links.network)

    def level(self, row: Row) -> str:
        return "network" if self._group(row)[1] > 1 else "NVLink"

    @property
    def rates(self) -> str:
        links = self._links
        return (
            f"at {links.nvlink / 1e9:,.0f} GB/s of a GPU by NVLink within a host, "
            f"{links.network / 1e9:,.4g} GB/s by its adapter between hosts, in each direction"
        )

    def _group(self, row: Row) -> tuple[int, int]:
        """Return how many devices take part together, and on how many hosts they are at most."""
        asked = [name for name in row.axes.split("+") if name in self.sizes]
        names = asked or [name for name, size in self.sizes.items() if size > 1]
        count = math.prod(self.sizes[name] for name in names)
        inner = [i for i, name in enumerate(self.sizes) if name in names]
        groups = np.moveaxis(self.hosts, inner, range(-len(inner), 0)).reshape(-1, count)
        return count, max((len(set(group.tolist())) for group in groups), default=1)

    @property
    def _links(self) -> HostLinks:
        assert self.topology.chip is not None
        assert isinstance(self.topology.chip.links, HostLinks)
        return self.topology.chip.links
