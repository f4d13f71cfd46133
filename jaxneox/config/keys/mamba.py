"""The rows of mamba layers: NeoX's own, which are among those of NeoXArgsModel, and ours."""

from jaxneox.config.fates import COUNT, WIDTH, Section, derived, needless, used

FUSED = "XLA compiles the scan, the convolution and what is around them; the function is the same"

MAMBA: Section = {
    "mamba_selective_scan_fusion": needless(bool, False, FUSED),
    "mamba_causal_conv_fusion": needless(bool, False, FUSED),
    "mamba_inner_func_fusion": needless(bool, False, FUSED),
    "mamba_selective_fp32_params": used(
        bool, True, "model.mamba.selective_fp32", "false: A and D are rounded as other weights"
    ),
    "mamba_use_bias_in_conv": used(bool, True, "model.mamba.conv_bias"),
    "mamba_use_bias_in_linears": used(bool, False, "model.mamba.bias"),
}

OUR_MAMBA: Section = {
    "mamba_groups": derived(
        COUNT,
        None,
        "model.mamba.groups",
        "of channels, each with step sizes, B and C of its own, as NeoX computes at that "
        "model_parallel_size; null: 1, or with neox_compat model_parallel_size",
    ),
    "mamba_state_size": used(WIDTH, 16, "model.mamba.state_size", "NeoX always has 16"),
    "mamba_conv_width": used(WIDTH, 4, "model.mamba.conv_width", "NeoX always has 4"),
    "mamba_step_rank": derived(
        WIDTH, None, "model.mamba.step_rank", "null: hidden_size / 16, rounded up, as in NeoX"
    ),
}
