"""Features of newer Hugging Face families that are not written for GPT-NeoX and Megatron-LM.

NeoX has none of them. Megatron-LM has some, but not in the files that are written here.
"""

from jaxneox.config.schema import ModelConfig


def newer_features(model: ModelConfig) -> dict[str, bool]:
    """Return the reasons against such files, each with whether the model has the feature."""
    a, scaling = model.attention, model.positions.scaling
    return {
        f"{a.num_heads} heads of {a.head_dim} are not as wide as the hidden size "
        f"{model.hidden_size} (head_dim)": a.num_heads * a.head_dim != model.hidden_size,
        "each head's queries and keys are normalised, with one scale for all heads "
        "(qk_norm_per_head)": a.qk_norm_per_head,
        "LoRA's matrices stand beside its own (lora): `jaxneox convert merge-adapter` makes one "
        "model of both": model.lora is not None,
        "its layers have experts (moe_num_experts)": model.experts is not None,
        f"its rotary embedding is scaled (rope_scaling of type {scaling.type})": (
            scaling.type != "default"
        ),
    }
