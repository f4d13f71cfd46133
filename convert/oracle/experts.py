"""Mixtures of experts in float64: which experts a token goes to, and what one of them computes.

Source: GPT-NeoX at ea7aefd8, `megatron/model/moe/router.py` and `megatron/model/moe_mlp.py`, in
evaluation: nothing is drawn, and Sinkhorn's balancing belongs to training. Mixtral and OLMoE are as
in transformers (`modeling_mixtral.py`, `modeling_olmoe.py`).
"""
# B batch, T length, D hidden, E experts, F inner width of one, k choices of a token

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from convert.oracle.maths import ACTIVATIONS, Array, linear
from jaxneox.config.layer_schema import ExpertsConfig


class ExpertChoice(NamedTuple):
    """The experts of each token, and what their outputs are multiplied by: [B, T, k]."""

    experts: NDArray[np.int64]
    weights: Array

    def weight_of(self, expert: int) -> Array:
        """Return the weight of one expert for each token, 0 where it is not chosen: [B, T]."""
        return np.sum(np.where(self.experts == expert, self.weights, 0.0), axis=-1)


def choose(x_BTD: Array, router_ED: np.ndarray, cfg: ExpertsConfig) -> ExpertChoice:
    """Choose the k experts that a router scores highest."""
    logits_BTE = linear(x_BTD, router_ED)
    if cfg.router == "sinkhorn" and cfg.top_k == 1:
        scores_BTE = expit(logits_BTE)
    else:
        scores_BTE = softmax(logits_BTE, axis=-1)
    experts_BTk = np.argsort(-scores_BTE, axis=-1, kind="stable")[..., : cfg.top_k]
    weights_BTk = np.take_along_axis(scores_BTE, experts_BTk, axis=-1)
    if cfg.normalized:
        weights_BTk = weights_BTk / weights_BTk.sum(axis=-1, keepdims=True)
    return ExpertChoice(experts_BTk, weights_BTk)


def expert(
    x_BTD: Array,
    up_FD: np.ndarray,
    down_DF: np.ndarray,
    cfg: ExpertsConfig,
    gate_FD: np.ndarray | None = None,
) -> Array:
    """Compute one expert of all tokens, [B, T, D]: an MLP without biases."""
    activation, inner_BTF = ACTIVATIONS[cfg.activation], linear(x_BTD, up_FD)
    if gate_FD is None:
        return linear(activation(inner_BTF), down_DF)
    return linear(activation(linear(x_BTD, gate_FD)) * inner_BTF, down_DF)
