"""`--check-replicas N`: compare the bytes that devices should hold alike.

They are compared every N steps, and before every save. A replica that drifts (a bit flipped in
memory, a broken device, a program that is not deterministic) raises no error by itself: it trains
on, and the checkpoint holds whichever copy was asked first. So each device hashes its part of each
array in its own memory; only the hashes, 4 bytes an array and device, are gathered.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxneox.errors import UserError

GOLDEN = np.uint32(0x9E3779B1)  # 2**32 / golden ratio: spreads positions over all bits


class ReplicasDiffer(UserError):
    """Two devices hold different bytes of the same part of an array.

    Its one line is for a person, but its status is not 2: no input is wrong, and a supervisor may
    well start the run again.
    """

    status = 3


class Replicas:
    """Compares what devices hold of a tree of arrays on one mesh.

    All processes of a run must call it together: the hashes are gathered among them.
    """

    def __init__(self, mesh: Mesh, tree: Any, step: int, every: int = 1):
        """Prepare to compare the copies of each array.

        Args:
            mesh: the devices.
            tree: arrays, or shapes with shardings.
            step: a step at which all copies are known to be equal, as they are when a run starts.
            every: how many steps lie between two comparisons.
        """
        self.clean, self.every = step, every
        self.devices = list(mesh.devices.flat)
        paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(tree), strict=True)
        self.names = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
        self.copies = [_copies(leaf, self.devices) for leaf in leaves]
        self.hashes = _hashes(mesh, [leaf.sharding.spec for leaf in leaves])

    def is_due(self, step: int) -> bool:
        return step % self.every == 0

    def check(self, tree: Any, step: int) -> None:
        """Compare all copies after a step.

        Raises:
            ReplicasDiffer: names the first array with a device of other bytes.
        """
        if step == self.clean or not any(self.copies):
            return
        hashes = np.asarray(self.hashes(jax.tree.leaves(tree)))
        wrong = [
            (name, odd, group)
            for name, copies, column in zip(self.names, self.copies, hashes.T, strict=True)
            for group in copies
            if (odd := _odd_ones(column[group]))
        ]
        if wrong:
            raise ReplicasDiffer(self._say(wrong, step))
        self.clean = step

    def _say(self, wrong: list[tuple[str, list[int], np.ndarray]], step: int) -> str:
        name, odd, group = wrong[0]
        devices = " and ".join(_name(self.devices[group[i]]) for i in odd)
        others = len(group) - len(odd)
        difference = (
            f"{devices} {'holds' if len(odd) == 1 else 'hold'} other bytes than the {others} other "
            f"{'copy' if others == 1 else 'copies'}"
            if others
            else f"{devices} hold different bytes, and which is right cannot be told"
        )
        more_arrays = len({name for name, *_ in wrong}) - 1
        more = f" (and so do copies of {more_arrays} other arrays)" if more_arrays else ""
        return (
            f"step {step}: {name}: {difference}{more}; stopped without saving. At step "
            f"{self.clean} all were equal, as they were at every save: start again from the newest "
            "checkpoint. If the same device is named again, run without it"
        )


def _hashes(mesh: Mesh, specs: Sequence[P]) -> Any:
    """Compile a function from arrays to uint32 [devices, arrays], the same on every device."""

    def on_each(*shards: jax.Array) -> jax.Array:
        return jnp.stack([hash_bits(shard) for shard in shards])[None]

    rows = P(tuple(mesh.axis_names))
    mapped = jax.shard_map(
        on_each, mesh=mesh, in_specs=tuple(specs), out_specs=rows, check_vma=False
    )

    def hashes(arrays: list[jax.Array]) -> jax.Array:
        return jax.reshard(mapped(*arrays), NamedSharding(mesh, P()))

    return jax.jit(hashes)


def hash_bits(x: jax.Array) -> jax.Array:
    """Hash an array's bits, uint32 []: NaNs and the two zeros count as they are.

    The hash is the sum modulo 2**32 of all words, each with its position mixed in by the finalizer
    of MurmurHash3, which maps words to words one to one: one changed word always changes the sum,
    any other difference is missed once in 2**32. The order of adding does not matter.
    """
    words = _words(x)
    position = jax.lax.iota(jnp.uint32, words.size)
    return jnp.sum(_mix(words ^ position * GOLDEN), dtype=jnp.uint32)


def _words(x: jax.Array) -> jax.Array:
    """View the bits as uint32 [words]."""
    x = x.reshape(-1)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    bits = 8 * x.dtype.itemsize
    unsigned = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{min(bits, 32)}"))
    return unsigned.reshape(-1).astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """Apply MurmurHash3's fmix32 (Austin Appleby, public domain)."""
    x ^= x >> 16
    x *= jnp.uint32(0x85EBCA6B)
    x ^= x >> 13
    x *= jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _copies(leaf: Any, devices: list[Any]) -> list[np.ndarray]:
    """Group the devices that hold the same part of an array, by their index in the mesh's order.

    There is one array for each part that several devices hold.
    """
    parts: dict[Any, list[int]] = {}
    where = leaf.sharding.devices_indices_map(leaf.shape)
    for place, device in enumerate(devices):
        part = tuple(
            slice.indices(size) for slice, size in zip(where[device], leaf.shape, strict=True)
        )
        parts.setdefault(part, []).append(place)
    return [np.array(places) for places in parts.values() if len(places) > 1]


def _odd_ones(hashes: np.ndarray) -> list[int]:
    """Find the hashes that differ from the most frequent one; all, if two are equally frequent."""
    counts = Counter(hashes.tolist()).most_common()
    if len(counts) == 1:
        return []
    tie = counts[0][1] == counts[1][1]
    return [i for i, h in enumerate(hashes.tolist()) if tie or h != counts[0][0]]


def _name(device: Any) -> str:
    return f"{device.platform} device {device.id} (process {device.process_index})"
