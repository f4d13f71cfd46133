"""The rates of one chip of each kind, from its maker's documentation."""

from dataclasses import dataclass

GIB, GB, TERA = 2**30, 10**9, 10**12


@dataclass(frozen=True)
class Chip:
    """One kind of chip.

    Attributes:
        flops: peak of dense bfloat16 products, FLOP/s.
        memory: bytes of main memory that a program can use.
        bandwidth: of main memory, bytes/s.
        link: of one link to a neighbour, bytes/s in each direction.
        axes: of the torus in which the chips lie; two links along each.
        source: where the figures are from.
    """

    flops: float
    memory: int
    bandwidth: float
    link: float
    axes: int
    source: str


# A documented "bidirectional bandwidth per chip" is that of all links in both directions.
CHIPS = {
    "v5e": Chip(197 * TERA, 16 * GB, 819 * GB, 50 * GB, 2, "docs.cloud.google.com/tpu/docs/v5e"),
    "v5p": Chip(459 * TERA, 95 * GIB, 2765 * GB, 100 * GB, 3, "docs.cloud.google.com/tpu/docs/v5p"),
    "v6e": Chip(918 * TERA, 32 * GB, 1600 * GB, 100 * GB, 2, "docs.cloud.google.com/tpu/docs/v6e"),
}
