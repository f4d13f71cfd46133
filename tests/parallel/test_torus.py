"""Two mesh axes for dp where its devices lie along three axes of a torus."""

import dataclasses
import itertools
from typing import NamedTuple

import pytest

from jaxneox.parallel.mesh import INNER, as_asked, make_mesh, on_torus, shown_axes, whole
from tests.parallel.cases import BOUNDS, GRADIENT, LOSS
from tests.parallel.meshes import MODEL, Mesh, apart, train


class Chip(NamedTuple):
    """A device of a TPU, as far as its place goes."""

    coords: tuple[int, int, int]


def slice_of(*shape: int) -> list[Chip]:
    return [Chip(place) for place in itertools.product(*map(range, shape))]


@pytest.mark.parametrize(
    ("sizes", "shape", "found"),
    [
        ({"dp": 64}, (4, 4, 4), {"dp": 16, INNER: 4}),
        ({"dp": 32, "tp": 2}, (4, 4, 4), {"dp": 16, INNER: 2, "tp": 2}),
        ({"dp": 16, "tp": 4}, (4, 4, 4), {"dp": 16, "tp": 4}),
        ({"dp": 128}, (4, 4, 8), {"dp": 32, INNER: 4}),
        ({"dp": 256}, (16, 16, 1), {"dp": 256}),
        ({"dp": 32}, (4, 4, 4), {"dp": 32}),  # a part of the devices
    ],
    ids=str,
)
def test_the_second_axis_is_what_two_of_the_torus_leave(sizes, shape, found) -> None:
    assert on_torus(whole(sizes), slice_of(*shape)) == whole(found)
    assert as_asked(whole(found)) == whole(sizes)


def test_devices_without_a_place_have_one_axis() -> None:
    sizes = whole({"dp": 8})
    assert on_torus(sizes, list(make_mesh(sizes).devices.flat)) == sizes


def test_users_see_one_axis() -> None:
    assert [shown_axes(axes) for axes in (f"dp+{INNER}+tp", INNER, "tp")] == ["dp+tp", "dp", "tp"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "inner"),
    [
        (Mesh(dp=8, zero=3), 2),
        (Mesh(dp=4, tp=2, zero=3, accumulation=2, sequence=True), 2),
        (Mesh(dp=4, cp=2, zero=1, accumulation=2, attention="ring"), 2),
        (Mesh(dp=4, pp=2, zero=3, accumulation=2), 2),
        (Mesh(dp=4, tp=2, zero=2, accumulation=2), 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("tied", [False, True])
def test_a_run_is_the_same_as_on_one_device(mesh: Mesh, inner: int, tied: bool) -> None:
    model = dataclasses.replace(MODEL, num_layers=2, tied_embedding=tied)
    sizes = whole(mesh.sizes | {"dp": mesh.dp // inner, INNER: inner})
    found, expected = train(mesh, model, sizes=sizes), train(Mesh(), model)
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    assert max(apart(found.grads, expected.grads).values()) <= GRADIENT
    assert max(apart(found.params, expected.params).values()) <= BOUNDS["parameter"]
