"""Logits, loss and the gradient of every parameter against the torch reference in float64."""

from typing import get_args

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

from jaxneox.config.layer_schema import Activation, NormKind
from jaxneox.config.schema import PositionKind
from tests.model.adapter import jax_logits, jax_loss_and_grads
from tests.model.variants import EXPERTS, VARIANTS, WORDS, configure
from tests.reference import neox_torch
from tests.reference.compare import relative_l2, worst_leaf
from tests.reference.parameters import random_params


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS + EXPERTS)
def test_logits_loss_and_every_gradient(variant: str) -> None:
    cfg = configure(variant)
    params = random_params(cfg, seed=7)
    tokens, labels = np.random.default_rng(8).integers(0, cfg.vocab_size, (2, 3, cfg.seq_length))
    # Float32 rounds by 6e-8, some ten times in a row through two layers; measured 1e-7 to 4e-7.
    expected_logits = neox_torch.logits(params, cfg, tokens)
    assert relative_l2(jax_logits(cfg, params, tokens), expected_logits) <= 1e-6

    expected_loss, expected_grads = neox_torch.loss_and_grads(params, cfg, tokens, labels)
    loss, grads = jax_loss_and_grads(cfg, params, tokens, labels)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    # Sums over tokens that partly cancel lose some more; measured 3e-7 to 7e-7.
    error, leaf = worst_leaf(grads, expected_grads)
    assert error <= 3e-6, leaf


def test_every_option_appears() -> None:
    assert {word for variant in VARIANTS + EXPERTS for word in variant.split()} == WORDS.keys()
    configs = [configure(variant) for variant in VARIANTS]
    assert {cfg.norm.kind for cfg in configs} == set(get_args(NormKind))
    assert {cfg.positions.kind for cfg in configs} == set(get_args(PositionKind))
    assert {cfg.mlp.activation for cfg in configs} == set(get_args(Activation))
    assert {cfg.norm.kind for cfg in configs if cfg.attention.qk_norm} == set(get_args(NormKind))
