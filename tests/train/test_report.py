"""What the dry run says of the compiled program: collectives by axis, and memory."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxneox.hlo.sent import Row, axes_of, rows, table

SIZES = {"pp": 1, "dp": 2, "cp": 2, "tp": 2}


@st.composite
def meshes_and_axes(draw: st.DrawFn) -> tuple[dict[str, int], tuple[str, ...]]:
    sizes = {axis: draw(st.integers(1, 4)) for axis in ("pp", "dp", "cp", "tp")}
    return sizes, tuple(axis for axis in sizes if draw(st.booleans()))


def groups_along(sizes: dict[str, int], axes: tuple[str, ...]) -> list[list[int]]:
    """Devices counted with the last axis fastest; together those that agree on all other axes."""
    together: dict[tuple[int, ...], list[int]] = {}
    for number, place in enumerate(itertools.product(*map(range, sizes.values()))):
        fixed = tuple(at for at, axis in zip(place, sizes, strict=True) if axis not in axes)
        together.setdefault(fixed, []).append(number)
    return list(together.values())


@given(meshes_and_axes(), st.randoms())
@settings(max_examples=60, deadline=None)
def test_groups_are_named_by_their_axes(case, random) -> None:
    """Whatever the order of groups and in them; axes of one device have no name."""
    sizes, axes = case
    groups = groups_along(sizes, axes)
    random.shuffle(groups)
    for group in groups:
        random.shuffle(group)
    expected = "+".join(axis for axis in axes if sizes[axis] > 1)
    assert axes_of(tuple(map(tuple, groups)), tuple(sizes.items())) == expected


@given(meshes_and_axes())
@settings(max_examples=60, deadline=None)
def test_a_shift_is_named_by_its_axis(case) -> None:
    """Each device to the next along the chosen axes, the last to none."""
    sizes, axes = case
    places = list(itertools.product(*map(range, sizes.values())))
    pairs = []
    for number, place in enumerate(places):
        after = tuple(at + (axis in axes) for at, axis in zip(place, sizes, strict=True))
        if after in places:
            pairs.append((number, places.index(after)))
    expected = "+".join(axis for axis in axes if sizes[axis] > 1)
    if all(sizes[axis] > 1 for axis in axes):
        assert axes_of(tuple(pairs), tuple(sizes.items()), pairs=True) == expected


def test_what_is_no_axis_is_said_to_be_none() -> None:
    sizes = tuple(SIZES.items())
    assert axes_of((), sizes) == "dp+cp+tp"
    assert axes_of((), (("dp", 1),)) == axes_of(((0,), (1,)), (("dp", 2),)) == ""
    odd = axes_of(((0, 3), (1, 2), (4, 7), (5, 6)), sizes)
    assert odd == "no product of axes: groups of 2 such as 0,3"
    assert "groups not understood: <?>" in axes_of("<?>", sizes)
    assert axes_of(((0, 1), (1, 0), (2, 2)), sizes, pairs=True) == "tp"
    partly = axes_of(((0, 1),), sizes)
    assert partly == "no product of axes: groups of 2 such as 0,1"


def test_the_table_says_what_is_not_sure() -> None:
    row = Row("all-gather", "tp", 3, 2**20, "known")
    assert "all-gather  tp               3           1.000" in table([row])
    assert "~" not in table([row]) and "≥" not in table([row])
    assert "≥ at least" in table([row, Row("all-reduce", "dp", 1, 0, "least")])
    assert "~ from the loops'" in table([row, Row("all-reduce", "dp", 1, 0, "derived")])
    assert "none" in table([])


@pytest.mark.parametrize("order", [range(8), (5, 2, 7, 0, 1, 3, 4, 6)])
def test_a_compiled_scan_of_known_collectives(order) -> None:
    """On a mesh in any order of devices; the scan of 7 has a sum over tp and a shift over cp in
    it, in an inner one of 3 a gather over dp; after it, a sum over all axes."""
    devices = np.array(jax.devices())[list(order)].reshape(tuple(SIZES.values()))
    mesh = Mesh(devices, tuple(SIZES), axis_types=(AxisType.Explicit,) * 4)

    def shard(x):
        def gather(x, _):
            return jnp.sin(jnp.sum(jax.lax.all_gather(x, "dp"), axis=0)), None

        def body(x, _):
            x = jnp.cos(jax.lax.psum(x, "tp"))
            x = jax.lax.ppermute(x, "cp", [(0, 1), (1, 0)])
            return jax.lax.scan(gather, x, length=3)[0], None

        x = jax.lax.scan(body, x, length=7)[0]
        return jax.lax.psum(jnp.sum(x * x), ("dp", "cp", "tp"))

    axes = ("dp", "cp", "tp")
    function = jax.shard_map(shard, mesh=mesh, in_specs=P(axes), out_specs=P(), check_vma=False)
    x = jax.ShapeDtypeStruct((8 * 100,), jnp.float32, sharding=NamedSharding(mesh, P(axes)))
    with jax.set_mesh(mesh):
        found = rows(jax.jit(function).lower(x).compile().as_text() or "", SIZES)
    assert set(found) == {
        Row("all-gather", "dp", 21, 21 * 800, "known"),
        Row("all-reduce", "tp", 7, 7 * 400, "known"),
        Row("collective-permute", "cp", 7, 7 * 400, "known"),
        Row("all-reduce", "dp+cp+tp", 1, 4, "known"),
    }
