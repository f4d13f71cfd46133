"""The Hugging Face architectures that are supported, and how config.json describes each.

Names, defaults and meanings are those of transformers 4.x and 5.23, models/*/configuration_*.py; a
key that is absent has its default there. Every key has one fate: it sets a field of ours, it must
have the one value that leaves the function as it is, or it does not affect the function.

A new family is an entry here and a table of its tensors in `convert.rules`, unless it shares the
tensors of another family.
"""

from dataclasses import replace

from convert.fixed import FixedSetting
from convert.hf.family import Family, Field, Rope, of_rewards, one_to_one, with_defaults
from convert.hf.windows import EveryLayer, LaterLayers
from convert.rules import hf_gpt2, hf_llama, hf_mamba, hf_mixtral, hf_neox, hf_olmoe

LENGTH = ("seq_length", "max_position_embeddings")

GPT_NEOX = Family(
    "GPTNeoXForCausalLM",
    "gpt_neox",
    fields=(
        one_to_one("vocab_size", 50432, "vocab_size", "padded_vocab_size"),
        one_to_one("hidden_size", 6144, "hidden_size"),
        one_to_one("num_hidden_layers", 44, "num_layers"),
        one_to_one("num_attention_heads", 64, "attention.num_heads", "num_attention_heads"),
        one_to_one("max_position_embeddings", 2048, "positions.max_positions", *LENGTH),
        one_to_one("layer_norm_eps", 1e-5, "norm.epsilon", "layernorm_epsilon"),
        one_to_one("use_parallel_residual", True, "parallel_residual", "gpt_j_residual"),
        one_to_one("attention_bias", True, "attention.bias", "use_bias_in_attn_linear"),
        one_to_one("attention_dropout", 0.0, "attention.dropout", "attention_dropout"),
        one_to_one("hidden_dropout", 0.0, "hidden_dropout"),
        one_to_one("initializer_range", 0.02, "init.std", "init_method_std"),
    ),
    width=("intermediate_size", 24576),
    activation=("hidden_act", "gelu"),
    constants={"norm": "layernorm", "pos_emb": "rotary"},
    table=hf_neox,
    rope=Rope("rotary_emb_base", "rotary_pct", 0.25),
    harmless=frozenset({"classifier_dropout"}),
    other_names={"lm_head.weight": hf_neox.HEAD},  # of transformers 5
)

LLAMA_FIELDS = (
    one_to_one("vocab_size", 32000, "vocab_size", "padded_vocab_size"),
    one_to_one("hidden_size", 4096, "hidden_size"),
    one_to_one("num_hidden_layers", 32, "num_layers"),
    one_to_one("num_attention_heads", 32, "attention.num_heads", "num_attention_heads"),
    one_to_one("num_key_value_heads", None, "attention.kv_heads", "num_kv_heads"),
    one_to_one("head_dim", None, "attention.head_dim", "head_dim"),
    one_to_one("max_position_embeddings", 2048, "positions.max_positions", *LENGTH),
    one_to_one("rms_norm_eps", 1e-6, "norm.epsilon", "rms_norm_epsilon"),
    one_to_one("attention_dropout", 0.0, "attention.dropout", "attention_dropout"),
    one_to_one("initializer_range", 0.02, "init.std", "init_method_std"),
)
"""Fields of Llama and of the families that derive from it."""


def attention_bias(default: bool) -> Field:
    return one_to_one("attention_bias", default, "attention.bias", "use_bias_in_attn_linear")


LLAMA = Family(
    "LlamaForCausalLM",
    "llama",
    fields=(
        *LLAMA_FIELDS,
        attention_bias(False),
        one_to_one("mlp_bias", False, "mlp.bias", "use_bias_in_mlp"),
    ),
    width=("intermediate_size", 11008),
    activation=("hidden_act", "silu"),
    constants={"norm": "rmsnorm", "pos_emb": "rotary"},
    table=hf_llama,
    rope=Rope("rope_theta", None),
    gated=True,
    since={"mlp_bias": "4.41"},
    harmless=frozenset({"pretraining_tp"}),  # cuts matrices up and adds the same products
)

MISTRAL = replace(
    LLAMA,
    architecture="MistralForCausalLM",
    model_type="mistral",
    fields=with_defaults(LLAMA_FIELDS, num_key_value_heads=8, max_position_embeddings=131072),
    width=("intermediate_size", 14336),
    constants={
        **LLAMA.constants,
        "use_bias_in_attn_linear": False,
        "use_bias_in_mlp": False,
    },
    windows=EveryLayer(default=4096),
    whole_heads=False,
    since={},
    harmless=frozenset(),
)

QWEN_SIZES = {"vocab_size": 151936, "num_key_value_heads": 32, "max_position_embeddings": 32768}

QWEN2 = replace(
    MISTRAL,
    architecture="Qwen2ForCausalLM",
    model_type="qwen2",
    fields=with_defaults(LLAMA_FIELDS, **QWEN_SIZES),
    width=("intermediate_size", 22016),
    constants={
        **LLAMA.constants,
        "use_bias_in_attn_linear": True,
        "attention_output_bias": False,
        "use_bias_in_mlp": False,
    },
    windows=LaterLayers(default=4096, first=28),
    fixed={"use_mrope": FixedSetting((False, None), "positions are of text alone")},
)

QWEN3 = replace(
    QWEN2,
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    fields=(*with_defaults(LLAMA_FIELDS, **QWEN_SIZES, head_dim=128), attention_bias(False)),
    constants={**LLAMA.constants, "qk_norm_per_head": True, "use_bias_in_mlp": False},
)

OF_EXPERTS = {
    **LLAMA.constants,
    "moe_router_type": "topk",
    "moe_gated_experts": True,
    "use_bias_in_attn_linear": False,
    "use_bias_in_mlp": False,
}
"""Keys that models with a mixture of experts in every layer have."""

MIXTRAL = replace(
    MISTRAL,
    architecture="MixtralForCausalLM",
    model_type="mixtral",
    fields=(
        *with_defaults(
            LLAMA_FIELDS, num_key_value_heads=8, max_position_embeddings=131072, rms_norm_eps=1e-5
        ),
        one_to_one("num_local_experts", 8, "experts.count", "moe_num_experts"),
        one_to_one("num_experts_per_tok", 2, "experts.top_k", "moe_top_k"),
    ),
    constants={**OF_EXPERTS, "moe_norm_topk_prob": True},
    windows=EveryLayer(default=None),
    experts=True,
    table=hf_mixtral,
    harmless=frozenset({"router_aux_loss_coef", "router_jitter_noise", "output_router_logits"}),
)

OLMOE = replace(
    MIXTRAL,
    architecture="OlmoeForCausalLM",
    model_type="olmoe",
    fields=(
        *with_defaults(
            LLAMA_FIELDS, vocab_size=50304, hidden_size=2048, num_hidden_layers=16,
            num_attention_heads=16, max_position_embeddings=4096, rms_norm_eps=1e-5,
        ),
        one_to_one("num_experts", 64, "experts.count", "moe_num_experts"),
        one_to_one("num_experts_per_tok", 8, "experts.top_k", "moe_top_k"),
        one_to_one("norm_topk_prob", False, "experts.normalized", "moe_norm_topk_prob"),
    ),
    width=("intermediate_size", 2048),
    constants={**OF_EXPERTS, "qk_norm_joint": True},
    windows=None,
    table=hf_olmoe,
    fixed={
        "attention_bias": FixedSetting((False,), "attention has no biases beside this norm"),
        "clip_qkv": FixedSetting((None,), "queries, keys and values are not clipped"),
    },
    harmless=frozenset({"router_aux_loss_coef", "output_router_logits"}),
)  # fmt: skip

GPT2 = Family(
    "GPT2LMHeadModel",
    "gpt2",
    fields=(
        one_to_one("vocab_size", 50257, "vocab_size", "padded_vocab_size"),
        one_to_one("n_embd", 768, "hidden_size", alias="hidden_size"),
        one_to_one("n_layer", 12, "num_layers", alias="num_hidden_layers"),
        one_to_one("n_head", 12, "attention.num_heads", "num_attention_heads",
                   alias="num_attention_heads"),
        one_to_one("n_positions", 1024, "positions.max_positions", *LENGTH,
                   alias="max_position_embeddings"),
        one_to_one("layer_norm_epsilon", 1e-5, "norm.epsilon", "layernorm_epsilon"),
        one_to_one("attn_pdrop", 0.1, "attention.dropout", "attention_dropout"),
        one_to_one("resid_pdrop", 0.1, "hidden_dropout"),
        one_to_one("initializer_range", 0.02, "init.std", "init_method_std"),
    ),
    width=("n_inner", None),
    activation=("activation_function", "gelu_new"),
    tied=True,
    constants={"norm": "layernorm", "pos_emb": "learned"},
    table=hf_gpt2,
    fixed={
        "scale_attn_weights": FixedSetting(
            (True,), "the scores are always divided by sqrt(head size)"
        ),
        "scale_attn_by_inverse_layer_idx": FixedSetting(
            (False,), "no score is divided by its layer"
        ),
    },
    harmless=frozenset(
        {"n_ctx", "embd_pdrop", "reorder_and_upcast_attn", "summary_type", "summary_use_proj"}
        | {"summary_activation", "summary_first_dropout", "summary_proj_to_labels"}
    ),
)  # fmt: skip

MAMBA = Family(
    "MambaForCausalLM",
    "mamba",
    fields=(
        one_to_one("vocab_size", 50280, "vocab_size", "padded_vocab_size"),
        one_to_one("hidden_size", 768, "hidden_size"),
        one_to_one("num_hidden_layers", 32, "num_layers"),
        one_to_one("layer_norm_epsilon", 1e-5, "norm.epsilon", "rms_norm_epsilon"),
        one_to_one("state_size", 16, "mamba.state_size", "mamba_state_size"),
        one_to_one("conv_kernel", 4, "mamba.conv_width", "mamba_conv_width"),
        one_to_one("use_conv_bias", True, "mamba.conv_bias", "mamba_use_bias_in_conv"),
        one_to_one("time_step_rank", "auto", "mamba.step_rank", "mamba_step_rank", derived="auto"),
        one_to_one("initializer_range", 0.1, "init.std", "init_method_std"),
    ),
    width=("intermediate_size", None),
    activation=("hidden_act", "silu"),
    tied=True,
    constants={
        "attention_config": [[["mamba"], "all"]],
        "norm": "rmsnorm",
        "pos_emb": "none",
        "num_attention_heads": 1,  # it has none
        "seq_length": 2048,  # of pretraining; its files do not say
        "max_position_embeddings": 2048,
    },
    table=hf_mamba,
    mamba=True,
    fixed={
        "rms_norm": FixedSetting((True, None), "its norms are RMS norms"),
        "use_bias": FixedSetting((False, None), "its selection would have a bias as well"),
        "hidden_act": FixedSetting(("silu", "swish"), "the activation of a mamba layer is silu"),
    },
    harmless=frozenset(
        {"expand", "residual_in_fp32", "use_mambapy", "use_associative_scan"}
        | {"time_step_scale", "time_step_min", "time_step_max", "time_step_init_scheme"}
        | {"time_step_floor", "rescale_prenorm_residual"}
        # of mamba_ssm's own configuration, which models on the hub repeat
        | {"d_inner", "d_model", "n_layer", "ssm_cfg", "fused_add_norm", "pad_vocab_size_multiple"}
    ),
)

LANGUAGE_MODELS = (GPT_NEOX, LLAMA, MISTRAL, QWEN2, QWEN3, MIXTRAL, OLMOE, GPT2)

FAMILIES = (
    *LANGUAGE_MODELS,
    MAMBA,
    *(of_rewards(family) for family in LANGUAGE_MODELS if not family.experts),
)
"""The supported families. If several have a model's function, the first of them is written."""
