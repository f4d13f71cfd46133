"""The rows of NeoXArgsModel."""

from typing import get_args

from jaxneox.config.fates import (
    AMOUNT,
    COUNT,
    LAYERS,
    LENGTH,
    SHARE,
    WHOLE,
    WIDTH,
    Number,
    Section,
    derived,
    inverted,
    needless,
    refused,
    used,
)
from jaxneox.config.keys.mamba import MAMBA
from jaxneox.config.layer_schema import Activation, NormKind
from jaxneox.config.schema import InitMethod, PositionKind

FUSED = "XLA fuses these operations by itself; the function is the same"
PLAIN_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "relu": "relu",
    "softsign": "softsign",
    "swish": "silu",
    "mish": "mish",
    "silu": "silu",
}
"""NeoX's names of the activations of a plain MLP, and ours."""

GATED_ACTIVATIONS: dict[str, Activation] = {
    "geglu": "gelu",
    "reglu": "relu",
    "swiglu": "silu",
    "bilinear": "identity",
    "glu": "sigmoid",
}
"""NeoX's names of gated MLPs, and the functions of their gates."""

NORMS = (*get_args(NormKind), "te_rmsnorm", "te_layernorm")
TE_NORM = "te_layernorm and te_rmsnorm are the same functions as layernorm and rmsnorm"
ROW = "NeoX's HEAD refuses it too: use column"
SPARSE = "sparse attention fails in NeoX's HEAD too: use global, or sliding_window_width"
SHARED = "NeoX reads it nowhere: each layer has parameters of its own"
PROMPT = "soft prompts fail in NeoX's HEAD too: leave it out, or train with lora"
RWKV = "only for RWKV layers, which are not here: leave it out"
RWKV_LAYERS = "NeoX's RWKV runs over the rows of a micro-batch instead of time: use mamba"
GMLP = "NeoX's gMLP has neither its residual nor its biases: use global, flash or mamba"
ATTENTION = {
    **dict.fromkeys(
        ("local", "sparse_fixed", "sparse_variable", "bigbird", "bslongformer"), SPARSE
    ),
    **dict.fromkeys(("gmlp", "amlp"), GMLP),
    "rwkv": RWKV_LAYERS,
}

MODEL: Section = {
    "precision": derived(
        ("fp16", "fp32", "bfloat16"), None, "precision.compute", "null: fp16's or bf16's block"
    ),
    "num_layers": used(LAYERS, None, "model.num_layers"),
    "hidden_size": used(WIDTH, None, "model.hidden_size"),
    "intermediate_size": derived(
        WIDTH, None, "model.mlp.size", "4 x hidden_size; a gated branch is a third of it"
    ),
    "mlp_multiple_of": derived(WIDTH, 1, "model.mlp.size", "one branch is rounded up to it"),
    "expansion_factor": derived(AMOUNT, None, "model.mlp.size", "instead of intermediate_size"),
    "num_attention_heads": used(WIDTH, None, "model.attention.num_heads"),
    "num_kv_heads": derived(WIDTH, None, "model.attention.kv_heads", "null: one per head"),
    "seq_length": used(LENGTH, None, "model.seq_length"),
    "sliding_window_width": used(
        WHOLE, None, "model.attention.window", "a token sees itself and so many before it"
    ),
    "max_position_embeddings": used(LENGTH, None, "model.positions.max_positions"),
    "norm": derived(NORMS, "layernorm", "model.norm.kind", TE_NORM),
    "layernorm_fusion": needless(bool, False, FUSED),
    "rmsnorm_fusion": needless(bool, False, FUSED),
    "use_qk_layernorm": used(bool, False, "model.attention.qk_norm"),
    "layernorm_epsilon": derived(AMOUNT, 1e-05, "model.norm.epsilon"),
    "rms_norm_epsilon": derived(AMOUNT, 1e-08, "model.norm.epsilon"),
    "scalenorm_epsilon": derived(AMOUNT, 1e-08, "model.norm.epsilon"),
    "pos_emb": used(get_args(PositionKind), "learned", "model.positions.kind"),
    "rpe_num_buckets": used(WIDTH, 32, "model.positions.rpe_buckets"),
    "rpe_max_distance": used(COUNT, 128, "model.positions.rpe_max_distance"),
    "opt_pos_emb_offset": used(WHOLE, 0, "model.positions.offset"),
    "no_weight_tying": used(bool, False, "model.tied_embedding", by=inverted),
    "attention_config": derived(
        list,
        None,
        "model.pattern",
        "global and flash, which are one function, and mamba",
        ATTENTION,
    ),
    "sparsity_config": refused(dict, None, SPARSE),
    "num_unique_layers": needless(COUNT, None, SHARED, told=True),
    "param_sharing_style": needless(str, "grouped", SHARED),
    "make_vocab_size_divisible_by": used(LENGTH, 128, "tokenizer.divisible_by"),
    "activation": derived(
        (*PLAIN_ACTIVATIONS, *GATED_ACTIVATIONS),
        "gelu",
        "model.mlp.activation",
        "gelu with bias_gelu_fusion is the tanh form",
    ),
    "use_flashattn_swiglu": needless(bool, False, FUSED),
    "scaled_upper_triang_masked_softmax_fusion": needless(bool, False, FUSED),
    "scaled_masked_softmax_fusion": needless(bool, False, FUSED),
    "bias_gelu_fusion": derived(
        bool, False, "model.mlp.activation", "true: gelu by tanh; else erf"
    ),
    "bias_dropout_fusion": needless(bool, False, FUSED),
    "rope_fusion": needless(bool, False, FUSED),
    "fused_kernels_build_path": needless(str, None, "no kernels are built"),
    "fp16_lm_cross_entropy": used(bool, False, "precision.loss_fp32", "only in fp16", by=inverted),
    "init_method_std": used(AMOUNT, 0.02, "model.init.std"),
    "apply_query_key_layer_scaling": derived(
        bool, False, "model.attention.softmax_fp32", "the scaling cancels; fp32 softmax remains"
    ),
    "use_cpu_initialization": needless(bool, False, "every mesh draws the same numbers"),
    "attention_softmax_in_fp32": derived(bool, False, "model.attention.softmax_fp32"),
    "rotary_pct": used(SHARE, 1.0, "model.positions.rotary_fraction"),
    "rotary_emb_base": used(Number(int, 1, 10**15), 10000, "model.positions.rotary_base", by=float),
    "rotary_save_freqs_buffer": needless(bool, False, "the frequencies are computed, never saved"),
    "init_method": used(get_args(InitMethod), "normal", "model.init.method"),
    "output_layer_init_method": used(
        get_args(InitMethod), "scaled_normal", "model.init.output_method"
    ),
    "gmlp_attn_dim": needless(int, 64, "only for gmlp layers, which attention_config refuses"),
    "gpt_j_residual": used(bool, False, "model.parallel_residual"),
    "gpt_j_tied": derived(bool, False, "model.shared_norm", "only with gpt_j_residual"),
    "use_bias_in_norms": derived(bool, True, "model.norm.bias", "ignored by NeoX HEAD"),
    "use_bias_in_attn_linear": used(bool, True, "model.attention.bias"),
    "use_bias_in_mlp": derived(bool, True, "model.mlp.bias"),
    "soft_prompt_tuning": refused(dict, None, PROMPT),
    **MAMBA,
    "output_layer_parallelism": refused(("column", "row"), "column", ROW),
    "dim_att": refused(int, None, RWKV),
    "head_size": refused(int, None, RWKV),
    "ffn_dim": refused(int, None, RWKV),
}
