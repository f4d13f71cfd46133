"""How long a step takes at a chip's peak rates: of arithmetic, of main memory, of the links."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jax.sharding import Mesh

from jaxneox.hlo.sent import Row
from jaxneox.hlo.work import Work
from jaxneox.plan.chips import TorusLinks
from jaxneox.plan.switched import SwitchedLinks
from jaxneox.plan.topology import Topology

CROSSINGS = {"all-reduce": 2.0, "all-to-all": 0.25, "ragged-all-to-all": 0.25}
"""How often the payload crosses a ring of many devices; other kinds cross it once."""


@dataclass(frozen=True)
class Times:
    """Seconds of a step.

    Attributes:
        flops: of arithmetic.
        memory: of main memory.
        links: of the links.
        exposed: of these, the seconds in which the device waits for them: what is sent while it
            computes nothing, by the order of the compiled program.
    """

    flops: float
    memory: float
    links: float
    exposed: float

    @property
    def least(self) -> float:
        """The seconds if arithmetic, memory and links all work at once."""
        return max(self.flops, self.memory, self.links)

    @property
    def most(self) -> float:
        """The seconds if the links wait for the others, and these for what is exposed."""
        return max(self.flops, self.memory) + self.exposed


class Network(Protocol):
    """A mesh on devices that are joined somehow, and how long it takes to send."""

    @property
    def topology(self) -> Topology: ...

    def seconds(self, row: Row) -> float:
        """Estimate the seconds that collectives take."""

    def level(self, row: Row) -> str:
        """Name what they go through."""

    @property
    def rates(self) -> str:
        """State the rates in words."""


Ways = Mapping[int, int]
"""Axes of the torus, and in how many directions along each a ring sends at once."""


@dataclass(frozen=True)
class Links:
    """A mesh on a torus of chips, with the ways of the devices of one group of each mesh axis."""

    topology: Topology
    sizes: Mapping[str, int]
    ways: Mapping[str, Ways]

    def seconds(self, row: Row) -> float:
        """Estimate the seconds that collectives take.

        There is a ring along each axis of the torus that a group has, in both directions if it
        closes. All-gather and reduce-scatter send (n - 1) / n of the payload, an all-reduce twice
        that, an all-to-all a quarter; a permute sends all of it over one link.

        Source: Austin et al. 2025, How to scale your model, section 3.
        """
        link = self._torus.link
        if row.kind in ("collective-permute", "collective-broadcast"):
            return row.bytes / link
        asked = [name for name in row.axes.split("+") if name in self.sizes]
        names = asked or [name for name, size in self.sizes.items() if size > 1]
        n = math.prod(self.sizes[name] for name in names)
        torus: dict[int, int] = {}
        for name in names:
            for axis, directions in self.ways[name].items():
                torus[axis] = max(directions, torus.get(axis, 0))
        rate = max(1, sum(torus.values())) * link
        return CROSSINGS.get(row.kind, 1.0) * row.bytes * (n - 1) / n / rate

    def level(self, row: Row) -> str:
        return "torus"

    @property
    def rates(self) -> str:
        return f"at {self._torus.link / 1e9:,.0f} GB/s each, in each direction"

    @property
    def _torus(self) -> TorusLinks:
        assert self.topology.chip is not None
        assert isinstance(self.topology.chip.links, TorusLinks)
        return self.topology.chip.links


def links_of(mesh: Mesh, topology: Topology) -> Network:
    """Put a mesh on a topology: on its hosts if these have GPUs, else on its torus."""
    sizes = dict(mesh.shape)
    if topology.is_gpu:
        hosts = np.vectorize(lambda device: device.process_index, otypes=[int])(mesh.devices)
        return SwitchedLinks(topology, sizes, hosts)
    ways: dict[str, Ways] = {}
    for i, name in enumerate(mesh.axis_names):
        group = np.moveaxis(mesh.devices, i, -1).reshape(-1, sizes[name])[0]
        coords = np.array([device.coords for device in group])
        spans = [len(set(along.tolist())) for along in coords.T]
        ways[name] = {
            axis: 2 if topology.wraps and span == topology.shape[axis] else 1
            for axis, span in enumerate(spans)
            if span > 1
        }
    return Links(topology, sizes, ways)


def times(work: Work, rows: Sequence[Row], links: Network, exposed: float) -> Times:
    chip = links.topology.chip
    assert chip is not None
    sent = sum(links.seconds(row) for row in rows)
    return Times(work.flops / chip.flops, work.bytes / chip.bandwidth, sent, exposed)
