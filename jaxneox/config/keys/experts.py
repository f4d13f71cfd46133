"""The rows of mixtures of experts: NeoX's own, those of its past, and ours."""

from typing import get_args

from jaxneox.config.fates import (
    AMOUNT,
    COUNT,
    SHARE,
    WHOLE,
    WIDTH,
    Section,
    derived,
    needless,
    refused,
    used,
)
from jaxneox.config.layer_schema import RouterKind

MOE: Section = {
    "moe_num_experts": derived(COUNT, 1, "model.experts.count", "1: none"),
    "moe_expert_interval": derived(
        COUNT, 1, "model.pattern", "every so many layers one has experts, the first among them"
    ),
    "moe_top_k": derived(COUNT, 1, "model.experts.top_k", "experts of a token"),
    "moe_router_type": used(get_args(RouterKind), "sinkhorn", "model.experts.router"),
    "moe_lbl_in_fp32": needless(bool, False, "the losses of the router are in float32"),
    "moe_jitter_eps": derived(
        SHARE,
        None,
        "model.experts.jitter",
        "e: in training the router topk reads x * u, each u drawn from 1 - e to 1 + e",
    ),
}

OUR_MOE: Section = {
    "moe_expert_size": derived(
        WIDTH,
        None,
        "model.experts.size",
        "inner width of one; null: intermediate_size, or 4 x hidden_size rounded up to a multiple "
        "of 256, as in NeoX",
    ),
    "moe_gated_experts": derived(
        bool,
        None,
        "model.experts.gated",
        "null: as the activation says; with neox_compat false, as NeoX's always are",
    ),
    "moe_shared_experts": used(
        WHOLE, 0, "model.experts.shared", "this many experts' widths all tokens pass through too"
    ),
    "moe_norm_topk_prob": used(
        bool, False, "model.experts.normalized", "a token's weights are divided by their sum"
    ),
    "moe_aux_loss_coeff": used(
        AMOUNT,
        0.0,
        "model.experts.balance_loss",
        "of the loss that spreads tokens over experts, taken of each sequence",
    ),
    "moe_z_loss_coeff": used(
        AMOUNT, 0.0, "model.experts.z_loss", "of the loss that keeps the router's logits small"
    ),
    "moe_capacity_factor": used(
        AMOUNT,
        None,
        "model.experts.capacity_factor",
        "in training an expert takes so many times its even share of a sequence; null: all that "
        "choose it",
    ),
    "moe_sinkhorn_rows": derived(
        COUNT,
        None,
        "model.experts.sinkhorn_rows",
        "sequences that the router balances together; null: 1, or with neox_compat those of a "
        "micro-batch",
    ),
    "moe_router_in_fp32": derived(
        bool,
        None,
        "model.experts.exact",
        "null: true, or with neox_compat false, the dtype of activations",
    ),
    "moe_residual_quirk": derived(
        WHOLE,
        None,
        "model.experts.residual_quirk",
        "P: as NeoX computes gpt_j_residual on P ranks, x + P * experts(norm2(x)) and no "
        "attention; null: 0, or with neox_compat model_parallel_size",
    ),
}

OLD = (
    "DeepSpeed's experts dropped tokens, and NeoX left them in 2024: set moe_num_experts and "
    "moe_expert_interval"
)
NEVER_HERE = (
    "experts are spread over devices by the mesh's axis ep, as in --mesh ep=4: leave it out"
)
BALANCE = "set moe_aux_loss_coeff, whose loss is taken of each sequence, and leave it out"
BOUND = "set moe_capacity_factor, which is of a sequence, or leave it out: no token is dropped"

PAST_MOE: Section = {
    "num_experts": refused(COUNT, 1, OLD),
    "expert_interval": needless(int, 2, "only with num_experts, which is refused"),
    "use_tutel": needless(bool, False, "XLA compiles the exchange of tokens"),
    "moe_loss_coeff": refused(float, 0.1, BALANCE, 0.0),
    "moe_train_capacity_factor": refused(float, 1.0, BOUND),
    "moe_eval_capacity_factor": needless(float, 1.0, "no token is dropped in evaluation"),
    "moe_min_capacity": needless(int, 4, "moe_capacity_factor has no least number of tokens"),
    "moe_token_dropping": refused(bool, False, BOUND),
    "create_moe_param_group": needless(bool, True, "Adam is the same for all groups"),
    "moe_use_residual": needless(
        bool, True, "only with num_experts, which is refused; moe_shared_experts is such an MLP"
    ),
    "moe_expert_parallel_size": refused(int, 1, NEVER_HERE),
    "moe_type": needless(str, "megablocks", "there is one implementation, which drops no token"),
    "moe_glu": refused(bool, False, "set moe_gated_experts to true"),
    "enable_expert_tensor_parallelism": needless(
        bool, False, "the mesh's axis tp splits an expert's width"
    ),
}
