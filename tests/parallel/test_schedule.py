"""The pipeline's schedule against what a pipeline is, and against the program that is compiled."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxneox.loading.resting import abstract_params
from jaxneox.model import Model
from jaxneox.parallel.mesh import make_mesh, whole
from jaxneox.parallel.rules import rules_for
from jaxneox.parallel.schedule import Schedule
from tests.parallel.meshes import LENGTH, MODEL

STAGES, CHUNKS, MICRO = st.integers(1, 6), st.integers(1, 4), st.integers(1, 24)


@given(STAGES, CHUNKS, MICRO)
def test_every_micro_batch_passes_every_chunk_in_order(p: int, v: int, m: int) -> None:
    """Each is one tick after the one before it, on the next stage around the ring."""
    schedule = Schedule(p, v, m)
    visits: dict[int, list[tuple[int, int]]] = {i: [] for i in range(m)}
    for tick, stage in np.argwhere(schedule.micro_batch >= 0):
        part = schedule.chunk[tick, stage] * p + stage
        visits[schedule.micro_batch[tick, stage]].append((part, tick))
    for i, seen in visits.items():
        first = min(tick for _, tick in seen)
        assert sorted(seen) == [(part, first + part) for part in range(p * v)]
        assert schedule.leaves_at[i] == first + p * v - 1
        assert schedule.enters[first, 0] and schedule.micro_batch[first, 0] == i
    assert schedule.enters.sum() == m and not schedule.enters[:, 1:].any()


@given(STAGES, CHUNKS, MICRO)
def test_the_bubble_is_the_share_of_idle_ticks(p: int, v: int, m: int) -> None:
    schedule = Schedule(p, v, m)
    assert schedule.bubble == pytest.approx((schedule.micro_batch < 0).mean(), abs=1e-12)
    if v == 1 or m % p == 0:
        assert schedule.ticks == m * v + p - 1
        assert schedule.bubble == pytest.approx((p - 1) / (m * v + p - 1), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("p", "v", "m"), [(2, 1, 4), (4, 1, 4), (2, 4, 4), (4, 2, 8), (2, 2, 3)])
def test_the_compiled_loop_has_the_ticks_of_the_schedule(p: int, v: int, m: int) -> None:
    """Its length as XLA knows it: a loop that holds the stages' exchange."""
    sizes = whole({"pp": p})
    rules, mesh = rules_for(sizes, 0, False, chunks=v), make_mesh(sizes)
    model = Model(MODEL, rules)
    with jax.set_mesh(mesh):
        params = abstract_params(model, rules, mesh)
        rows = jax.ShapeDtypeStruct((m, 2, LENGTH), jnp.int32)
        weights = jax.ShapeDtypeStruct((m, 2, LENGTH), jnp.float32)
        text = jax.jit(model.loss_sum).lower(params, rows, rows, weights).compile().as_text()
    assert loops_with(text, "collective-permute") == [Schedule(p, v, m).ticks]


def loops_with(text: str, operation: str) -> list[int]:
    """The lengths of the loops whose bodies do the operation themselves."""
    bodies = dict(re.findall(r"^%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", text, re.M | re.S))
    loops = re.findall(r"while\(.*body=%?([\w.\-]+).*known_trip_count\":\{\"n\":\"(\d+)\"", text)
    return [int(count) for body, count in loops if f" {operation}" in bodies[body]]
