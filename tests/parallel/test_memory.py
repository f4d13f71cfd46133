"""What a device holds of parameters and optimizer, in the compiled step, against the formula."""

import dataclasses
import math

import jax
import pytest

from jaxneox.model import Model
from jaxneox.train.dry_run.program import compile_step
from jaxneox.train.plan import build_plan
from tests.parallel.meshes import MODEL, Mesh, config

LARGER = dataclasses.replace(MODEL, hidden_size=128, vocab_size=512, num_layers=4)
LARGER = dataclasses.replace(
    LARGER,
    attention=dataclasses.replace(LARGER.attention, head_dim=16),
    mlp=dataclasses.replace(LARGER.mlp, size=512),
)
REPLICATED = ("norm", "out_bias", "down_bias")  # what tp does not split, by its name


def formula(model: Model, mesh: Mesh) -> tuple[float, float]:
    """Bytes of parameters and of Adam's two moments on a device, from names and shapes alone: 4 and
    8 for an element of what tp and pp leave it, over its copies from ZeRO stage 3, and 1, on."""
    parameters = moments = 0.0
    for name, shape in model.shapes.items():
        layer = name.startswith("layers.")
        split = 1 if any(part in name for part in REPLICATED) else mesh.tp
        here = math.prod(shape) / split / (mesh.pp if layer else 1)
        copies = mesh.dp * mesh.cp * (1 if layer else mesh.pp)
        parameters += 4 * here / (copies if mesh.zero >= 3 else 1)
        moments += 8 * here / (copies if mesh.zero >= 1 else 1)
    return parameters, moments


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [
        *(Mesh(dp=4, tp=2, zero=zero) for zero in (0, 1, 2, 3)),
        Mesh(dp=2, pp=2, cp=2, zero=1, accumulation=2),
        Mesh(dp=2, pp=2, tp=2, zero=3, accumulation=2, chunks=2),
    ],
    ids=str,
)
def test_parameters_and_moments_take_what_the_formula_says(mesh: Mesh) -> None:
    """All are arguments of the compiled step, beside a batch whose size is known."""
    cfg = config(LARGER, mesh)
    plan = build_plan(cfg, mesh.sizes)
    devices = jax.devices()[: math.prod(mesh.sizes.values())]
    stats = compile_step(plan, devices).program.memory_analysis()
    rows, length = cfg.batch.global_size // mesh.dp, cfg.model.seq_length
    batch = rows * (4 * (length + 1) + 4 * length)
    expected = sum(formula(plan.model, mesh))
    assert stats.argument_size_in_bytes - batch == pytest.approx(expected, rel=0.02)
    # the old state's memory is the new one's
    assert stats.alias_size_in_bytes == pytest.approx(expected, rel=0.02)
