"""Twenty steps of AdamW, with NeoX's groups of weight decay, against torch's in float64."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

from jaxneox.config.schema import (
    AttentionConfig,
    MlpConfig,
    ModelConfig,
    NormConfig,
    OptimizerConfig,
    PositionConfig,
)
from tests.model.adapter import jax_train_losses
from tests.reference.parameters import random_params
from tests.reference.training import train_losses

PYTHIA = ModelConfig(
    num_layers=2,
    hidden_size=32,
    vocab_size=40,
    seq_length=16,
    attention=AttentionConfig(num_heads=4, kv_heads=4, head_dim=8),
    mlp=MlpConfig(48, activation="gelu_tanh"),
    positions=PositionConfig("rotary", rotary_fraction=0.5),
    parallel_residual=True,
    tied_embedding=False,
)
GPT2 = replace(
    PYTHIA,
    positions=PositionConfig("learned", max_positions=16),
    parallel_residual=False,
    tied_embedding=True,
)
LLAMA = replace(
    PYTHIA,
    attention=AttentionConfig(num_heads=4, kv_heads=2, head_dim=8, bias=False, qk_norm=True),
    mlp=MlpConfig(48, activation="silu", gated=True, bias=False),
    norm=NormConfig("rmsnorm", 1e-6),
    parallel_residual=False,
)
CASES = {"pythia": PYTHIA, "gpt2": GPT2, "llama": LLAMA}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_losses_of_twenty_steps(name: str) -> None:
    cfg = CASES[name]
    # A large decay, so that a parameter in the wrong group shows within these steps.
    optimizer = OptimizerConfig(
        "adamw", lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=1.0, grad_clip=0.0
    )
    params = random_params(cfg, seed=3)
    batches = list(np.random.default_rng(4).integers(0, 8, (20, 4, cfg.seq_length + 1)))
    expected = train_losses(cfg, params, batches, optimizer)
    assert expected[-1] < 0.8 * expected[0]
    # Float32 against float64: 1e-7 a step, which training on makes grow.
    found = jax_train_losses(cfg, params, batches, optimizer)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
