"""What a device holds of parameters and optimizer, in the compiled step, against the formula."""

import dataclasses

import jax
import pytest

from jaxneox.model import Model
from jaxneox.train.program import compile_step
from jaxneox.train.run import build_plan
from tests.parallel.meshes import MODEL, Mesh, config

DP, TP = 4, 2
LARGER = dataclasses.replace(MODEL, hidden_size=128, vocab_size=512, num_layers=4)
LARGER = dataclasses.replace(
    LARGER,
    attention=dataclasses.replace(LARGER.attention, head_dim=16),
    mlp=dataclasses.replace(LARGER.mlp, size=512),
)
REPLICATED = ("norm", "out_bias", "down_bias")  # what tp does not split, by its name


def elements(model: Model) -> tuple[int, int]:
    """Those of the parameters that tp splits, and of the others, from names and shapes alone."""
    split = whole = 0
    for name, shape in model.shapes.items():
        size = 1
        for length in shape:
            size *= length
        if any(part in name for part in REPLICATED):
            whole += size
        else:
            split += size
    return split, whole


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_parameters_and_moments_take_what_the_formula_says(zero: int) -> None:
    """float32 weights: 4 bytes at rest, over dp from stage 3 on; 8 of Adam's two moments, over dp
    from stage 1 on. All are arguments of the step beside a batch, whose size is known."""
    cfg = config(LARGER, Mesh(DP, TP, zero))
    plan = build_plan(cfg, {"dp": DP, "tp": TP})
    stats = compile_step(plan, jax.devices()[: DP * TP]).program.memory_analysis()
    rows, length = cfg.batch.global_size // DP, cfg.model.seq_length
    batch = rows * (4 * (length + 1) + 4 * length)

    split, whole = elements(plan.model)
    per_device = split / TP + whole
    parameters = 4 * per_device / (DP if zero >= 3 else 1)
    moments = 8 * per_device / (DP if zero >= 1 else 1)
    assert split + whole == plan.parameters and split > 50 * whole
    assert stats.argument_size_in_bytes - batch == pytest.approx(parameters + moments, rel=0.02)
    # the old state's memory is the new one's
    assert stats.alias_size_in_bytes == pytest.approx(parameters + moments, rel=0.02)
