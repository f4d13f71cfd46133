"""muP's first values and multipliers, each by its formula; its training on every mesh."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxneox.config.schema import InitConfig, InitMethod, OptimizerConfig, PositionConfig
from jaxneox.config.widths import Multipliers, Widths
from jaxneox.model.parameters import Declaration
from tests.model.test_init import MODEL, close
from tests.parallel import meshes
from tests.parallel.cases import GRADIENT, LOSS, PARAMETER
from tests.parallel.meshes import Mesh, apart

WIDE = replace(
    MODEL,
    hidden_size=64,
    vocab_size=512,
    attention=replace(MODEL.attention, num_heads=8, kv_heads=4, head_dim=8),
    mlp=replace(MODEL.mlp, size=128, gated=True),
    positions=PositionConfig("learned", max_positions=256),
    tied_embedding=False,
)
WIDTHS = Widths(hidden=4.0, attention=2.0, mlp=8.0)
READS = {"qkv": 4.0, "out": 2.0, "up": 4.0, "gate": 4.0, "down": 8.0}
OUTPUTS = ("out", "down")


def drawn(init: InitConfig) -> dict[str, np.ndarray]:
    values = jax.jit(Declaration(replace(WIDE, init=init)).init)(jax.random.key(0))
    return {name: np.asarray(w) for name, w in values.items()}


def base_std(method: InitMethod, width: int) -> float:
    """NeoX's formulas (megatron/model/init_functions.py)."""
    layers = WIDE.num_layers
    return {
        "normal": 0.02,
        "scaled_normal": 0.02 / math.sqrt(2 * layers),
        "small_init": math.sqrt(2 / (5 * width)),
        "wang_init": 2 / layers / math.sqrt(width),
    }[method]


@pytest.mark.parametrize("as_neox", [False, True])
@pytest.mark.parametrize(
    "methods", [("normal", "scaled_normal"), ("small_init", "wang_init")], ids="-".join
)
def test_first_values(methods: tuple[InitMethod, InitMethod], as_neox: bool) -> None:
    """Table 8: those of the base, and of hidden matrices 1 / sqrt(u) of it."""
    init = InitConfig(*methods, scale=1.5, widths=replace(WIDTHS, as_neox=as_neox))
    width = 64 if as_neox else 64 // 4
    for name, w in drawn(init).items():
        last = name.split(".")[-1]
        if "norm" in name or last.endswith("bias"):
            assert np.unique(w) == (1.0 if last == "scale" else 0.0), name
            continue
        std = base_std(methods[last in OUTPUTS], width)
        if not (as_neox and last == "positions"):  # which NeoX does not draw again
            std *= 1.5
        assert close(w.std(), std / math.sqrt(READS.get(last, 1.0)), w.size), name


def test_at_the_base_it_is_the_plain_model() -> None:
    plain, base = drawn(InitConfig()), drawn(InitConfig(widths=Widths(1.0, 1.0, 1.0)))
    for name in plain:
        np.testing.assert_array_equal(plain[name], base[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_every_mesh_as_one_device(tied: bool) -> None:
    model = replace(
        meshes.MODEL,
        tied_embedding=tied,
        attention=replace(meshes.MODEL.attention, scale=1 / 4),
        multipliers=Multipliers(3.0, 1.0, 0.25),
        positions=PositionConfig("learned", max_positions=meshes.LENGTH),
    )
    optimizer = OptimizerConfig("adam", lr=1e-3, betas=(0.9, 0.95), widths=WIDTHS)
    expected = meshes.train(Mesh(), model, optimizer=optimizer)
    for mesh in (Mesh(2, 2), Mesh(2, 2, 3), Mesh(2, 1, 1, accumulation=2, pp=2), Mesh(1, 2, cp=2)):
        found = meshes.train(mesh, model, optimizer=optimizer)
        assert found.losses == pytest.approx(expected.losses, rel=LOSS), mesh
        assert max(apart(found.grads, expected.grads).values()) <= GRADIENT, mesh
        assert max(apart(found.params, expected.params).values()) <= PARAMETER, mesh
    slower = meshes.train(Mesh(), model, optimizer=replace(optimizer, widths=None))
    assert slower.losses[1:] != pytest.approx(expected.losses[1:], rel=1e-4)
