"""The ranks and stages of NeoX that a model is split for, and their limits."""

from typing import NamedTuple

from convert.newer_features import newer_features
from convert.readers.neox_mlp_keys import NAMES
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError


class NeoxGrid(NamedTuple):
    """The parallel sizes of NeoX's files.

    Attributes:
        mp: the number of model-parallel ranks.
        pp: the number of pipeline stages; 0 for the Sequential engine.
        old_names: whether tensors have their names of 2023.
    """

    mp: int
    pp: int
    old_names: bool

    def __str__(self) -> str:
        return f"model-parallel-size {self.mp}, pipe-parallel-size {self.pp}"


JOINT = ("layernorm", "non_parametric_layernorm")
"""Norms whose statistics are taken over all heads of a rank."""

NORMS = (*JOINT, "rmsnorm", "scalenorm")
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "mish", "softsign", "sigmoid", "identity")
"""All that NeoX has, by our names."""


def _of_experts(model: ModelConfig, mp: int) -> dict[str, bool]:
    """Return the reasons against a model's mixtures, each with whether it holds."""
    experts = model.experts
    if experts is None:
        return {}
    drops = mp if model.parallel_residual else 0
    return {
        "its experts are gated, which NeoX's never are": experts.gated,
        f"it has {experts.shared} shared experts, of which NeoX has none": experts.shared > 0,
        "a token's weights of its experts are divided by their sum (moe_norm_topk_prob), which "
        "NeoX does not do": experts.normalized,
        f"{experts.count} experts do not divide over {mp} ranks": experts.count % mp != 0,
        f"its experts are {experts.size} wide and the MLPs of its dense layers {model.mlp.size}, "
        "for which NeoX has one key": _widths_differ(model),
        f"NeoX drops the attention beside experts with gpt_j_residual and adds {mp} times their "
        f"output on {mp} ranks (moe_attention_dropped {mp}), and this model has "
        f"{experts.residual_quirk} of that": experts.residual_quirk != drops,
        "the model has one norm for both branches (gpt_j_tied), which NeoX's experts do not read": (
            model.shared_norm
        ),
    }


def default_expert_size(model: ModelConfig) -> int:
    """Return the width that NeoX gives an expert without `intermediate_size`."""
    return -(-4 * model.hidden_size // 256) * 256


def _widths_differ(model: ModelConfig) -> bool:
    """Tell whether no `intermediate_size` gives both experts and dense layers their widths."""
    assert model.experts is not None
    if "dense" not in model.pattern:
        return False
    branches = 3 if model.mlp.gated else 1
    size, dense = model.experts.size, model.mlp.size
    by_default = size == default_expert_size(model) and dense == 4 * model.hidden_size // branches
    return dense != size // branches and not by_default


def refuse_grid(model: ModelConfig, grid: NeoxGrid) -> None:
    mp, a = grid.mp, model.attention
    if mp < 1 or grid.pp < 0:
        raise UserError(f"--mp {mp} --pp {grid.pp}: expected --mp from 1 and --pp from 0")
    norm, activation = model.norm.kind, model.mlp.activation
    attends = set(model.pattern) != {"mamba"}
    drops = model.parallel_residual and model.mlp.gated and not model.mlp.bias
    reasons = {
        f"its norms are {norm}, which NeoX does not have": norm not in NORMS,
        f"its MLP's activation is {activation}, which NeoX does not have": (
            activation not in ACTIVATIONS
        ),
        f"its gated MLP's activation is {activation}, for which NeoX has no gate": (
            model.mlp.gated and activation in ACTIVATIONS and activation not in NAMES
        ),
        "it has a bias on its logits, which NeoX has only from copies of a layernorm's bias": (
            model.logit_bias and (model.tied_embedding or not model.norm.bias)
        ),
        "NeoX drops the attention of a parallel residual with a gated MLP without biases, and "
        "this model has it": drops and not model.attention_dropped,
        "its attention is dropped, which NeoX does only with a gated MLP without biases": (
            model.attention_dropped and not drops
        ),
        f"use_qk_layernorm with {norm} would take its statistics over each rank's own "
        "heads: use --mp 1": a.qk_norm and mp > 1 and norm in JOINT,
        f"{a.kv_heads} key-value heads do not divide over {mp} ranks": (
            attends and a.kv_heads % mp != 0
        ),
        f"the MLP's width {model.mlp.size} does not divide over {mp} ranks": (
            "dense" in model.pattern and model.mlp.size % mp != 0
        ),
        f"{model.hidden_size} numbers of the hidden state, of which each rank's reward head reads "
        f"a part, do not divide over {mp} ranks": (
            model.head == "reward" and model.hidden_size % mp != 0
        ),
        "it is a reward model, which NeoX trains without its pipeline engine: use --sequential": (
            model.head == "reward" and grid.pp > 0
        ),
        f"{model.num_layers} layers are fewer than {grid.pp} stages": (model.num_layers < grid.pp),
        **newer_features(model),
        **_of_experts(model, mp),
        **_of_mamba(model, mp),
    }
    refused = [reason for reason, holds in reasons.items() if holds]
    if refused:
        raise UserError(f"NeoX cannot have this model's function: {'; '.join(refused)}")


def _of_mamba(model: ModelConfig, mp: int) -> dict[str, bool]:
    """Return the reasons against NeoX's mamba layers, each with whether it holds."""
    m = model.mamba
    if m is None or "mamba" not in model.pattern:
        return {}
    found = (m.state_size, m.conv_width, m.step_rank)
    expected = (16, 4, -(-model.hidden_size // 16))
    return {
        f"its mamba layers have {m.groups} groups of channels, which NeoX computes at as many "
        f"ranks: use --mp {m.groups}": m.groups != mp,
        f"the state, the convolution and the rank of its mamba layers are {found}, and NeoX's "
        f"always {expected}": found != expected,
    }
