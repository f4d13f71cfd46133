"""Megatron-LM's arguments that must have the value that leaves the function as it is."""

from convert.fixed import FixedSetting

NONE = (None, False, 0)
SCALING = "rotary scaling is not read from Megatron-LM's checkpoints"
QK_NORMS = "norms of queries and keys are not read from Megatron-LM's checkpoints"
FIXED = {
    "num_experts": FixedSetting((*NONE, 1), "mixtures of experts are not supported"),
    "multi_latent_attention": FixedSetting(NONE, "there is no latent attention"),
    "apply_residual_connection_post_layernorm": FixedSetting(NONE, "norms come before each branch"),
    "squared_relu": FixedSetting(NONE, "NeoX has no squared relu"),
    "quick_geglu": FixedSetting(NONE, "NeoX has no quick geglu"),
    "activation_func_clamp_value": FixedSetting(NONE, "no activation is clamped"),
    "glu_linear_offset": FixedSetting((*NONE, 0.0), "no gated branch has an offset"),
    "use_rope_scaling": FixedSetting(NONE, SCALING),
    "rotary_seq_len_interpolation_factor": FixedSetting((*NONE, 1), SCALING),
    "no_rope_freq": FixedSetting(NONE, "all layers have the same positions"),
    "window_size": FixedSetting(NONE, "a window is not read from Megatron-LM's checkpoints"),
    "qk_layernorm": FixedSetting(NONE, QK_NORMS),
    "qk_l2_norm": FixedSetting(NONE, QK_NORMS),
    "attention_output_gate": FixedSetting(NONE, "attention has no gate"),
    "softmax_type": FixedSetting((None, "vanilla"), "the softmax has no further term"),
    "use_mup": FixedSetting(NONE, "muP is not supported"),
    "enable_mhc_connections": FixedSetting(NONE, "there is one residual stream"),
    "linear_attention_freq": FixedSetting(NONE, "all attention is softmax attention"),
    "is_hybrid_model": FixedSetting(NONE, "all layers are transformer layers"),
    "hybrid_layer_pattern": FixedSetting(NONE, "all layers are transformer layers"),
    "hybrid_override_pattern": FixedSetting(NONE, "all layers are transformer layers"),
    "heterogeneous_layers_config_path": FixedSetting(NONE, "all layers are alike"),
    "heterogeneous_layers_config_encoded_json": FixedSetting(NONE, "all layers are alike"),
    "experimental_attention_variant": FixedSetting(NONE, "all attention is softmax attention"),
    "mtp_num_layers": FixedSetting(NONE, "one token is predicted at a time"),
}
"""Arguments that change the function, with the values for which they do not."""
