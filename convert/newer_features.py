"""Features of newer Hugging Face families that are not written for GPT-NeoX and Megatron-LM.

NeoX has none of them. Megatron-LM has some, but not in the files that are written here.
"""

from jaxneox.config.schema import ModelConfig
from jaxneox.config.widths import Multipliers


def unwritten_layers(model: ModelConfig) -> dict[str, bool]:
    """Return the reasons against Megatron-LM's files that lie in the kinds of layers."""
    return {
        "it has layers with a mixture of experts, which are not written for Megatron-LM": (
            "experts" in model.pattern
        ),
        "it has mamba layers, which are not written for Megatron-LM": "mamba" in model.pattern,
    }


def newer_features(model: ModelConfig) -> dict[str, bool]:
    """Return the reasons against such files, each with whether the model has the feature."""
    a, scaling = model.attention, model.positions.scaling
    return {
        f"{a.num_heads} heads of {a.head_dim} are not as wide as the hidden size "
        f"{model.hidden_size} (head_dim)": a.num_heads * a.head_dim != model.hidden_size,
        "each head's queries and keys are normalised, with one scale for all heads "
        "(qk_norm_per_head)": a.qk_norm_per_head,
        "queries and keys are normalised over all heads together (qk_norm_joint)": a.qk_norm_joint,
        "LoRA's matrices stand beside its own (lora): `jaxneox convert merge-adapter` makes one "
        "model of both": model.lora is not None,
        f"its rotary embedding is scaled (rope_scaling of type {scaling.type})": (
            scaling.type != "default"
        ),
        "it is trained with muP, or its activations are multiplied by constants (use_mup): "
        "`jaxneox convert fold-mup` puts them into the weights": model.init.widths is not None
        or model.multipliers != Multipliers()
        or a.scale is not None,
    }
