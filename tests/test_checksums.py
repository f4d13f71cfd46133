"""A number for each array that any changed bit changes, and no mesh."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxneox.checksums import checksums, differing
from jaxneox.saver import Saver

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8"])
def test_every_single_bit_counts(dtype: str) -> None:
    array = np.asarray(RANDOM.integers(0, 200, (3, 5)), jnp.dtype(dtype))
    before = checksums({"w": jnp.asarray(array)})
    for bit in range(array.nbytes * 8):
        changed = bytearray(array.tobytes())
        changed[bit // 8] ^= 1 << bit % 8
        other = np.frombuffer(bytes(changed), array.dtype).reshape(array.shape)
        assert differing(checksums({"w": jnp.asarray(other)}), before) == ["w"]


def test_order_and_sign_of_zero_count_and_another_precision_does_not() -> None:
    array = jnp.arange(6.0).reshape(2, 3)
    before = checksums({"w": array})
    assert differing(checksums({"w": array[::-1]}), before)
    assert differing(checksums({"w": array.at[0, 0].set(-0.0)}), before)
    assert not differing(checksums({"w": array.astype(jnp.bfloat16)}), before)


def test_the_same_on_every_mesh() -> None:
    tree = {"a": RANDOM.normal(size=(8, 6)).astype(np.float32), "b": np.int32(3)}
    expected = checksums(tree)
    for sizes, specs in (((8, 1), P("dp")), ((2, 2), P("dp", "tp")), ((4, 2), P(("dp", "tp")))):
        devices = jax.devices()[: sizes[0] * sizes[1]]
        mesh = jax.make_mesh(sizes, ("dp", "tp"), devices=devices)
        lain = {
            "a": jax.device_put(tree["a"], NamedSharding(mesh, specs)),
            "b": jax.device_put(tree["b"], NamedSharding(mesh, P())),
        }
        with jax.set_mesh(mesh):
            assert checksums(lain) == expected


def test_layers_are_stored_one_by_one(tmp_path: Path) -> None:
    """Who needs one layer of a stack, as another mesh of stages does, reads no other."""
    stack = jnp.asarray(RANDOM.normal(size=(4, 64, 32)).astype(np.float32))
    saver = Saver(tmp_path)
    saver.save(1, {"layers.mlp.up": stack, "embed.tokens": stack[0]}, None, {})
    saver.close()
    chunks = {name: chunk_of(tmp_path / "step_1/params", name) for name in
              ("layers.mlp.up", "embed.tokens")}  # fmt: skip
    assert chunks == {"layers.mlp.up": (1, 64, 32), "embed.tokens": (64, 32)}


def chunk_of(folder: Path, name: str) -> tuple[int, ...]:
    store = {"driver": "ocdbt", "base": f"file://{folder}", "path": f"{name}/"}
    array = tensorstore.open({"driver": "zarr", "kvstore": store}, open=True).result()
    return tuple(array.chunk_layout.read_chunk.shape)
