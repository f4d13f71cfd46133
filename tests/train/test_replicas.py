"""A bit that differs between copies is found and named, and nothing else is."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxneox.train.loop import loop
from jaxneox.train.loop.replicas import Replicas, ReplicasDiffer, hash_bits
from tests.parallel.meshes import Mesh
from tests.parallel.meshes import config as mesh_config
from tests.train.running import MODEL, Runner, config, tokens
from tests.train.runs import command, write_yaml

MOMENT = "opt_state.1.mu.final_norm.scale"


def runner(dp: int, tp: int, zero: int = 0) -> Runner:
    parallel = mesh_config(MODEL, Mesh(dp, tp, zero)).parallel
    cfg = dataclasses.replace(config(), parallel=parallel)
    return Runner(cfg, dp, tp)


def flipped(x: jax.Array, device: int, element: int = 0, bit: int = 0) -> jax.Array:
    """The same array with one bit of one device's copy changed."""
    shards = [np.array(shard.data) for shard in x.addressable_shards]
    devices = [shard.device for shard in x.addressable_shards]
    bits = shards[device].reshape(-1).view(f"u{x.dtype.itemsize}")
    bits[element] ^= bits.dtype.type(1 << bit)
    buffers = [jax.device_put(s, d) for s, d in zip(shards, devices, strict=True)]
    return jax.make_array_from_single_device_arrays(x.shape, x.sharding, buffers)


def with_flip(state: Any, name: str, *where: int) -> Any:
    """The state with a bit flipped in the array of this dotted name."""

    def change(path: Any, leaf: jax.Array) -> jax.Array:
        here = jax.tree_util.keystr(path, simple=True, separator=".") == name
        return flipped(leaf, *where) if here else leaf

    return jax.tree_util.tree_map_with_path(change, state)


def found(replicas: Replicas, run: Runner, state: Any, step: int = 7) -> str:
    with jax.set_mesh(run.mesh), pytest.raises(ReplicasDiffer) as error:
        replicas.check(state, step)
    assert error.value.status not in (0, 2)
    return str(error.value)


@pytest.fixture(scope="module")
def four() -> Runner:
    return runner(4, 1)


@pytest.mark.parametrize("name", ["params.layers.mlp.up", MOMENT, "step", "scale.factor"])
@pytest.mark.parametrize(("device", "element", "bit"), [(2, 0, 0), (0, -1, 31)])
def test_the_device_that_differs_from_the_majority_is_named(
    four: Runner, name: str, device: int, element: int, bit: int
) -> None:
    replicas = Replicas(four.mesh, four.state, 5)
    said = found(replicas, four, with_flip(four.state, name, device, element, bit))
    assert said.startswith(
        f"step 7: {name}: cpu device {device} (process 0) holds other bytes than the 3 other "
        "copies; stopped without saving. At step 5 all were equal, as they were at every save"
    )


@pytest.mark.parametrize(
    ("name", "device", "said"),
    [
        ("params.layers.mlp.up", 3, "cpu device 1 (process 0) and cpu device 3 (process 0) hold"),
        (MOMENT, 1, "cpu device 1 (process 0) holds other bytes than the 3 other copies"),
    ],
)
def test_on_dp_and_tp_only_holders_of_the_same_part_are_compared(
    name: str, device: int, said: str
) -> None:
    """What tp splits has two copies over dp, and of two neither is right; the rest has four."""
    run = runner(2, 2)
    replicas = Replicas(run.mesh, run.state, 0)
    state = run.state
    with jax.set_mesh(run.mesh):
        replicas.check(state, 3)
    text = found(replicas, run, with_flip(state, name, device))
    assert text.startswith(f"step 7: {name}: {said}") and "At step 3 all were equal" in text


def test_of_several_arrays_the_first_is_named_and_the_others_counted(four: Runner) -> None:
    state = with_flip(with_flip(four.state, "params.layers.mlp.up", 1), "step", 2)
    said = found(Replicas(four.mesh, four.state, 0), four, state)
    assert "params.layers.mlp.up: cpu device 1" in said and "copies of 1 other arrays" in said


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_no_false_alarm_after_steps_with_nans_and_both_zeros(zero: int) -> None:
    run = runner(2, 2, zero)
    for step in range(2):
        run(tokens(step))
    replicas = Replicas(run.mesh, run.state, 0)
    with jax.set_mesh(run.mesh):
        params = dict(run.state.params)
        params["layers.mlp.up"] *= jnp.float32(-0.0)
        params["layers.mlp.down"] *= jnp.float32("nan")
        state = run.state._replace(params=params)
        replicas.check(state, 1)
        replicas.check(run.state, 2)
    assert replicas.clean == 2


def test_nans_of_other_bits_and_zeros_of_another_sign_differ() -> None:
    def hashed(bits: int) -> int:
        return int(hash_bits(jnp.array([bits], jnp.uint32).view(jnp.float32)))

    assert len({hashed(bits) for bits in (0, 0x80000000, 0x7FC00000, 0x7FC00001)}) == 4


@given(st.binary(min_size=8, max_size=64), st.data())
@settings(max_examples=50, deadline=None)
def test_any_changed_word_and_any_two_swapped_change_the_hash(content: bytes, data: Any) -> None:
    words = np.frombuffer(content[: len(content) // 4 * 4], np.uint32).copy()
    before = int(hash_bits(jnp.asarray(words)))
    i, j = (data.draw(st.integers(0, len(words) - 1)) for _ in range(2))
    changed = words.copy()
    changed[i] ^= np.uint32(1 << data.draw(st.integers(0, 31)))
    assert int(hash_bits(jnp.asarray(changed))) != before
    if words[i] != words[j]:
        words[[i, j]] = words[[j, i]]
        assert int(hash_bits(jnp.asarray(words))) != before


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "bfloat16", "int32", "float32"])
def test_every_width_is_hashed(dtype: str) -> None:
    x = jnp.arange(6).reshape(2, 3).astype(dtype)
    hashes = {int(hash_bits(x.at[i].set(x[i] == 0))) for i in np.ndindex(2, 3)}
    assert len(hashes | {int(hash_bits(x))}) == 7


@pytest.mark.slow
@pytest.mark.parametrize("every", ["5", "100"])  # the latter compares before saves alone
def test_the_command_stops_without_saving(
    every: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit flips in step 5, between two saves."""
    build = loop.build_step

    def build_faulty(*args: Any) -> Any:
        step = build(*args)

        def faulty(state: Any, batch: Any) -> Any:
            before = int(state.step)
            state, figures = step(state, batch)
            if before == 4:
                state = with_flip(state, "params.layers.mlp.up", 1, 5, 12)
            return state, figures

        return faulty

    monkeypatch.setattr(loop, "build_step", build_faulty)
    args = (write_yaml(tmp_path, checkpoint_factor=2), "--mesh", "dp=4", "--save", tmp_path / "run")
    outcome = command(*args, "--check-replicas", every)
    assert outcome.code == 3
    (line,) = outcome.err.splitlines()
    step = 5 if every == "5" else 6
    assert line.startswith(f"error: step {step}: params.layers.mlp.up: cpu device 1 (process 0)")
    assert "At step 4 all were equal" in line
    assert sorted(path.name for path in (tmp_path / "run").glob("step_*")) == ["step_2", "step_4"]
