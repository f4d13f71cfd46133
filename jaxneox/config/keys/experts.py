"""The rows of mixtures of experts: NeoX's section, ours, and names of other programs."""

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
    or_none,
    refused,
    used,
)
from jaxneox.config.layer_schema import RouterKind

FLOAT32 = "the losses of routers are always computed in float32"
OF_OTHERS = "refused with moe_num_experts, where the name of ours is said"

MOE: Section = {
    "moe_num_experts": derived(COUNT, 1, "model.experts.count", "1: layers are dense"),
    "moe_expert_interval": derived(
        COUNT, 1, "model.pattern", "every such layer has experts, from the first on"
    ),
    "moe_top_k": used(COUNT, 1, "model.experts.top_k"),
    "moe_router_type": used(get_args(RouterKind), "sinkhorn", "model.experts.router"),
    "moe_lbl_in_fp32": needless(bool, False, FLOAT32),
    "moe_jitter_eps": derived(SHARE, None, "model.experts.jitter", "the router topk only"),
}

OUR_MOE: Section = {
    "moe_norm_topk_prob": used(
        bool,
        False,
        "model.experts.normalized",
        "the weights of a token's experts are divided by their sum",
    ),
    "moe_gated_experts": derived(
        bool,
        None,
        "model.experts.gated",
        "null: as the activation says; with neox_compat false, as in NeoX, where experts have the "
        "gate's function alone",
    ),
    "moe_shared_experts": used(
        WHOLE, 0, "model.experts.shared", "so many experts' widths that all tokens pass through"
    ),
    "moe_expert_size": derived(
        WIDTH,
        None,
        "model.experts.size",
        "null: intermediate_size, else 4 x hidden_size, rounded up to a multiple of 256",
    ),
    "moe_aux_loss_coeff": used(
        AMOUNT, 0.0, "model.experts.balance_loss", "of the loss that spreads tokens over experts"
    ),
    "moe_z_loss_coeff": used(
        AMOUNT, 0.0, "model.experts.z_loss", "of the loss that keeps the router's logits small"
    ),
    "moe_capacity_factor": used(
        AMOUNT,
        None,
        "model.experts.capacity_factor",
        "in training an expert takes so many times its even share of a sequence; null: all",
        by=or_none,
    ),
    "moe_sinkhorn_rows": derived(
        COUNT,
        None,
        "model.experts.sinkhorn_rows",
        "sequences that are balanced together; null: 1, or with neox_compat a micro-batch",
    ),
    "moe_router_fp32": derived(
        bool, None, "model.experts.exact", "null: true, or false with neox_compat, as in NeoX"
    ),
    "moe_attention_dropped": derived(
        WHOLE,
        None,
        "model.experts.residual_quirk",
        "with gpt_j_residual a layer adds so many times its experts' output and no attention; "
        "null: 0, or with neox_compat model_parallel_size, as in NeoX",
    ),
}

OTHERS_NAMES = {
    "expert_interval": "use moe_expert_interval",
    "moe_loss_coeff": "use moe_aux_loss_coeff, whose loss is taken of each sequence",
    "moe_train_capacity_factor": "use moe_capacity_factor",
    "moe_eval_capacity_factor": "nothing is dropped in evaluation: leave it out",
    "moe_min_capacity": "use moe_capacity_factor",
    "moe_token_dropping": "use moe_capacity_factor, without which no token is dropped",
    "moe_use_residual": "use moe_shared_experts",
    "moe_expert_parallel_size": "use --mesh ep=N, which splits the experts between devices",
    "moe_glu": "use moe_gated_experts",
    "enable_expert_tensor_parallelism": "--mesh tp=N splits every expert: leave it out",
}
"""Names of earlier versions of NeoX and of other programs, and what to use in their place."""

PAST_MOE: Section = {
    "num_experts": refused(COUNT, 1, "use moe_num_experts"),
    "expert_interval": needless(int, 2, OF_OTHERS),
    "use_tutel": needless(bool, False, "the experts' products are XLA's"),
    "moe_loss_coeff": needless(float, 0.1, OF_OTHERS),
    "moe_train_capacity_factor": needless(float, 1.0, OF_OTHERS),
    "moe_eval_capacity_factor": needless(float, 1.0, OF_OTHERS),
    "moe_min_capacity": needless(int, 4, OF_OTHERS),
    "moe_token_dropping": needless(bool, False, OF_OTHERS),
    "create_moe_param_group": needless(bool, True, "experts are parameters like others"),
    "moe_use_residual": needless(bool, True, OF_OTHERS),
    "moe_expert_parallel_size": needless(int, 1, OF_OTHERS),
    "moe_type": needless(str, "megablocks", "the function is the same"),
    "moe_glu": needless(bool, False, OF_OTHERS),
    "enable_expert_tensor_parallelism": needless(bool, False, OF_OTHERS),
}
