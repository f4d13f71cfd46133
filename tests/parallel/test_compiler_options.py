"""XLA's options by kind of device."""

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxneox.parallel.compiler_options import OPTIONS, compiler_options, jit_on
from jaxneox.parallel.mesh import make_mesh


def mesh_of(platform: str, count: int) -> Any:
    devices = np.array([SimpleNamespace(platform=platform) for _ in range(count)])
    return SimpleNamespace(devices=devices, size=count)


@pytest.mark.parametrize("platform", sorted(OPTIONS))
def test_a_device_alone_overlaps_nothing(platform: str) -> None:
    assert compiler_options(mesh_of(platform, 1)) == {}
    assert compiler_options(mesh_of(platform, 2)) == OPTIONS[platform]


@pytest.mark.parametrize("variable", ["XLA_FLAGS", "LIBTPU_INIT_ARGS"])
def test_what_a_user_has_set_is_left(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = OPTIONS["tpu"]
    monkeypatch.setenv(variable, f"--xla_other=1 --{first}=false")
    assert list(compiler_options(mesh_of("tpu", 4))) == others


def test_a_cpu_has_none() -> None:
    mesh = make_mesh({"dp": 2})
    assert compiler_options(mesh) == {}
    assert jit_on(mesh, jnp.sin)(jnp.float32(0)) == 0
