"""The rows of keys that NeoX's documentation does not list: of its HEAD, its forks, and our own."""

from typing import get_args

from jaxneox.config.fates import (
    AMOUNT,
    COUNT,
    INTS,
    LENGTH,
    SHARE,
    STRINGS,
    WIDTH,
    Number,
    Section,
    alias,
    derived,
    entries,
    inverted,
    needless,
    refused,
    used,
)
from jaxneox.config.keys.experts import OUR_MOE
from jaxneox.config.keys.mamba import OUR_MAMBA
from jaxneox.config.layer_schema import Kernel
from jaxneox.config.objective_schema import DpoLoss, KlForm
from jaxneox.config.optimization_schema import Dtype
from jaxneox.config.schema import RopeType

TE = "XLA fuses these layers; they compute in the YAML's precision, never in FP8"
ONLINE = "training on data served over a socket is not here: leave it out"
ONLY_ONLINE = "only for online training, which is refused"
IN_FLOAT32 = "log-probabilities are always float32"
WITHIN = "use separate_documents, or reset_attention_mask for end-of-document tokens"
QUANTIZED = ("int8", "int4", "nf4", "fp4", "fp8")
NOT_QUANTIZED = "no base is quantized here (QLoRA): bfloat16 is the least, half of float32"
KV = "num_kv_heads decides: leave it out"

NEWER: Section = {
    "te_columnparallel": needless(bool, False, TE),
    "te_rowparallel": needless(bool, False, TE),
    "te_layernorm_mlp": needless(bool, False, TE),
    "te_mha": needless(bool, False, TE),
    "te_fp8_format": needless(("e4m3", "hybrid"), "hybrid", TE),
    "te_fp8_wgrad": needless(bool, True, TE),
    "te_fp8_amax_history_len": needless(int, 1, TE),
    "te_fp8_amax_compute_algo": needless(str, "most_recent", TE),
    "te_fp8_margin": needless(int, 0, TE),
    "te_fp8_mha": needless(bool, False, TE),
    "wandb_run_name": derived(str, None, "log.wandb"),
    "peak_theoretical_tflops": used(AMOUNT, None, "log.peak_tflops", "of one device; for MFU"),
    "serve_model_weights": refused(bool, False, ONLINE),
    "weight_server_port": needless(int, 6000, ONLY_ONLINE),
    "online_dataserver_ips": needless(str, "localhost", ONLY_ONLINE),
    "online_dataserver_ports": needless(int, 10000, ONLY_ONLINE),
    "fp32_reinforce": needless(bool, True, IN_FLOAT32),
    "kl_impl": used(get_args(KlForm), "mse", "objective.kl_form"),
    "kl_div_beta": used(AMOUNT, 0.1, "objective.kl_weight"),
    "reinforce_leave_one_out": used(bool, False, "objective.leave_one_out"),
}

FORKS: Section = {
    "gas": alias(COUNT, None, "gradient_accumulation_steps"),
    "attention_type": refused(str, None, KV, "groupedquery", "multihead"),
    "decay_lr_to": derived(SHARE, None, "schedule.min_lr", "Llemma's: min_lr as a share of lr"),
    "warmup_iters": derived(AMOUNT, None, "schedule.warmup_iters", "Llemma's: instead of warmup"),
}

SCALING = "model.positions.scaling"
ROPE_SCALING: Section = {
    "rope_scaling": derived(
        dict, None, SCALING, "rotary for longer texts, as Hugging Face's config.json names it"
    ),
    "rope_scaling.type": derived(get_args(RopeType), "default", f"{SCALING}.type"),
    "rope_scaling.rope_type": alias(get_args(RopeType), None, "rope_scaling.type"),
    "rope_scaling.factor": derived(
        Number(float, 1), None, f"{SCALING}.factor", "how many times longer texts may be"
    ),
    "rope_scaling.original_max_position_embeddings": derived(
        COUNT,
        None,
        f"{SCALING}.original_max_position_embeddings",
        "dynamic, yarn and llama3: the longest texts of pretraining",
    ),
    "rope_scaling.attention_factor": derived(
        AMOUNT, None, f"{SCALING}.attention_factor", "yarn; null: 0.1 ln(factor) + 1"
    ),
    "rope_scaling.mscale": derived(
        AMOUNT, None, f"{SCALING}.attention_factor", "yarn, with mscale_all_dim: in its place"
    ),
    "rope_scaling.mscale_all_dim": derived(
        AMOUNT, None, f"{SCALING}.attention_factor", "as mscale"
    ),
    "rope_scaling.beta_fast": derived(AMOUNT, 32.0, f"{SCALING}.beta_fast", "yarn"),
    "rope_scaling.beta_slow": derived(AMOUNT, 1.0, f"{SCALING}.beta_slow", "yarn"),
    "rope_scaling.truncate": derived(bool, True, f"{SCALING}.truncate", "yarn"),
    "rope_scaling.low_freq_factor": derived(AMOUNT, None, f"{SCALING}.low_freq_factor", "llama3"),
    "rope_scaling.high_freq_factor": derived(AMOUNT, None, f"{SCALING}.high_freq_factor", "llama3"),
}

OURS: Section = {
    "eod_token": used(
        str,
        None,
        "tokenizer.eod_token",
        "the token after each document; null: tokenizer_config.json's eos_token, or <|endoftext|>",
    ),
    "neox_compat": used(bool, False, "neox_compat", "true: as NeoX HEAD does, not as it says"),
    "remat_policy": derived(
        ("none", "full", "dots"), None, "remat.policy", "null: checkpoint_activations says"
    ),
    "attention_kernel": used(
        ("auto", *get_args(Kernel)),
        "auto",
        "model.attention.kernel",
        "auto: the fastest that has all the model needs",
    ),
    "head_dim": derived(
        WIDTH, None, "model.attention.head_dim", "null: hidden_size / num_attention_heads"
    ),
    "attention_output_bias": derived(
        bool,
        True,
        "model.attention.output_bias",
        "false: use_bias_in_attn_linear is for queries, keys and values alone, as in Qwen2",
    ),
    "qk_norm_per_head": used(
        bool,
        False,
        "model.attention.qk_norm_per_head",
        "norms of queries and of keys over a head's dimensions, each with one scale for all "
        "heads, as in Qwen3",
    ),
    "qk_norm_joint": used(
        bool,
        False,
        "model.attention.qk_norm_joint",
        "norms of a token's queries, and of its keys, over all heads together, as in OLMoE",
    ),
    **ROPE_SCALING,
    **OUR_MAMBA,
    **OUR_MOE,
    "pipe_parallel_chunks": used(
        COUNT, 1, "parallel.chunks", "of layers for each stage; more make a smaller bubble"
    ),
    "context_parallel_size": used(COUNT, 1, "parallel.cp", "devices that split a sequence"),
    "context_parallel_attention": used(
        ("auto", "gather", "ring"), "auto", "parallel.attention", "auto: the ring where it can"
    ),
    "logit_bias": used(
        bool,
        False,
        "model.logit_bias",
        "from folding the final norm's drifted replicas; NeoX has none",
    ),
    "attention_dropped": used(
        bool,
        False,
        "model.attention_dropped",
        "true: as NeoX computes gpt_j_residual with a gated MLP without biases",
    ),
    "lr_factors": derived(
        dict, None, "optimizer.lr_factors", "by parameter: from NeoX's biases, one copy for several"
    ),
    "gradient_factors": derived(
        dict,
        None,
        "optimizer.gradient_factors",
        "by parameter: from NeoX's experts, whose gradients it divides by the ranks",
    ),
    "clip_leaves_out": derived(
        dict,
        None,
        "optimizer.clip_leaves_out",
        "by parameter the first layer that the norm leaves out, as DeepSpeed's in later stages",
    ),
    "old_lr_schedule": used(
        bool, False, "schedule.old", "true: NeoX before 2023-08: the decay counts the warm-up"
    ),
    "dpo_loss": used(get_args(DpoLoss), "sigmoid", "objective.dpo_loss"),
    "dpo_label_smoothing": used(
        SHARE, 0.0, "objective.dpo_label_smoothing", "share of pairs taken as the wrong way round"
    ),
    "z_loss": used(AMOUNT, 0.0, "train.z_loss", "NeoX HEAD has it for reward models only"),
    "lora": derived(dict, None, "model.lora", "trains matrices of low rank beside a model's own"),
    "lora.base": used(
        str, None, "checkpoint.base", "the model beside which it is trained; null: what load names"
    ),
    "lora.base_dtype": used(
        (*get_args(Dtype), *QUANTIZED),
        "float32",
        "precision.base",
        "in which the base's parameters are held",
        refused=dict.fromkeys(QUANTIZED, NOT_QUANTIZED),
    ),
    "lora.rank": derived(COUNT, None, "model.lora.rank", "of the matrices; needed"),
    "lora.alpha": derived(AMOUNT, 16.0, "model.lora.alpha", "scales by alpha / sqrt(rank)"),
    "lora.dropout": derived(SHARE, 0.0, "model.lora.dropout", "of what the first one reads"),
    "lora.targets": derived(
        STRINGS,
        None,
        "model.lora.targets",
        "of qkv, out, up, gate, down, or PEFT's names; null: all of the layers",
    ),
    "lora.rslora": derived(
        bool, True, "model.lora.stabilized", "false: scales by alpha / rank, as LoRA first did"
    ),
    "mup_base_hidden_size": derived(
        WIDTH, None, "model.init.widths.hidden", "use_mup: the base's, instead of base_shapes_file"
    ),
    "mup_base_attention_size": derived(
        Number(int, 0, 1 << 22),
        None,
        "model.init.widths.attention",
        "of all heads together; null: in proportion, 0: the same in models of every width",
    ),
    "mup_base_mlp_size": derived(
        Number(int, 0, 1 << 22), None, "model.init.widths.mlp", "of one branch; null, 0: likewise"
    ),
    "trainable": used(
        STRINGS,
        None,
        "train.trainable",
        "patterns of parameters' names, of which the last that fits decides, such as "
        "['!embed.*']; null: all, or with lora its matrices",
        by=entries,
    ),
    "loss_spike_factor": used(
        AMOUNT, 6.0, "log.spike_factor", "deviations above the recent losses' median; 0: never"
    ),
    "order": used(
        ("neox", "megatron"),
        "neox",
        "data.order",
        "megatron: as Megatron-core's GPTDataset",
    ),
    "add_extra_token_to_sequence": used(
        bool, True, "data.extra_token", "Megatron's: false: samples share no token"
    ),
    "drop_last_partial_validation_sequence": used(
        bool,
        True,
        "data.keep_partial_validation",
        "Megatron's: false: a short last one counts",
        by=inverted,
    ),
    "context_length": used(
        LENGTH,
        None,
        "generation.context",
        "tokens of a text when the model is used; null: seq_length",
    ),
    "eval_fixed": used(
        bool,
        False,
        "train.eval_fixed",
        "all evaluations take the same batches; there is one before the first step, and one after "
        "the last",
    ),
    "separate_documents": used(
        bool,
        False,
        "data.separate_documents",
        "in training each document of a row is a text of its own, wherever the dataset begins one",
    ),
    "reset_position_ids": used(
        bool,
        False,
        "data.reset_position_ids",
        "Megatron's: training's positions count from 0 after each <|endoftext|>",
    ),
    "reset_attention_mask": used(
        bool,
        False,
        "data.reset_attention_mask",
        "Megatron's: in training a token sees nothing before the last <|endoftext|>",
    ),
    "inter_document_masking": refused(bool, False, WITHIN),
    "rampup_batch_size": derived(
        INTS, None, "batch.ramp", "Megatron's: [start, increment, samples until train_batch_size]"
    ),
    "drop_last_samples": derived(
        COUNT, None, "batch.drop_last", "null: micro-batch x dp of the first start, as NeoX"
    ),
    "max_micro_batch_size": derived(
        COUNT, None, "batch.micro", "the largest micro-batch up to it that divides the batch"
    ),
}
