"""The rows of keys that NeoX renamed or removed since its first YAML files of 2021.

Their meanings are those of NeoX's own history (configs/neox_arguments.md, megatron/neox_arguments
and, before 2021-04, megatron/arguments.py and megatron/config_monster.py).
"""

from jaxneox.config.fates import (
    AMOUNT,
    COUNT,
    STRINGS,
    Section,
    alias,
    derived,
    in_a_list,
    inverted,
    needless,
    refused,
)
from jaxneox.config.keys.deepspeed import COLLECTIVES, LAYOUT, ONLY_1BIT
from jaxneox.config.keys.experts import PAST_MOE
from jaxneox.config.keys.model import SPARSE
from jaxneox.config.keys.running import LAUNCH, SET_BY_NEOX
from jaxneox.config.keys.training import ADAM_FOR_1BIT

ANY_OPTIMIZER = "every optimizer works with every ZeRO stage"
NO_BERT = "only for Megatron's BERT and retrieval models, which NeoX never trained"
BF16_SCALE = "bfloat16 has the range of float32 and needs no loss scale"
ON_DEVICE = "the optimizer runs on the training device"
BETAS = "NeoX took it from the optimizer's block: set optimizer.params.betas"
WIDE = "it was wider: set activation to geglu and intermediate_size to 12 x hidden_size"
ONE_PATH = "a single path, until 2021-05"

RENAMED: Section = {
    "save_interval": alias(COUNT, None, "checkpoint_factor", "until 2022-12"),
    "optimizer.params.max_grad_norm": alias(AMOUNT, None, "gradient_clipping", "until 2021-04"),
    "out_seq_length": alias(COUNT, None, "maximum_tokens", "until 2021-05"),
    "max_tokens": alias(COUNT, None, "maximum_tokens", "until 2021-05"),
    "genfile": derived(
        str, None, "generation.output_file", "until 2021-05; sample_output_file wins"
    ),
    "train_data_path": alias(str, None, "train_data_paths", ONE_PATH, by=in_a_list),
    "valid_data_path": alias(str, None, "valid_data_paths", ONE_PATH, by=in_a_list),
    "test_data_path": alias(str, None, "test_data_paths", ONE_PATH, by=in_a_list),
    "label_data_paths": alias(STRINGS, None, "train_label_data_paths", "until 2024-09"),
    "rms_norm": alias(
        bool, False, "norm", "true: rmsnorm, until 2021-03", by={True: "rmsnorm"}.get
    ),
    "gptj_residual": alias(bool, False, "gpt_j_residual", "2021-06"),
    "log_parameter_norm": alias(bool, False, "log_param_norm", "2021-04"),
    "rotary_emb_theta": alias(COUNT, None, "rotary_emb_base", "2021-04"),
    "momentum": alias(AMOUNT, None, "optimizer.params.momentum", "until 2021-04"),
    "no_adamw": alias(bool, False, "optimizer.params.adam_w_mode", "until 2021-04", by=inverted),
    "adam_eps": alias(AMOUNT, None, "optimizer.params.eps", "until 2021-04"),
    "mlp_type": derived(
        ("regular", "llama"),
        "regular",
        "model.mlp",
        "until 2024-09; llama: gated, without biases, intermediate_size or 8/3 hidden_size wide",
    ),
}

REMOVED: Section = {
    "zero_allow_untested_optimizer": needless(bool, False, ANY_OPTIMIZER),
    "deepspeed_extra_args.zero_allow_untested_optimizer": needless(bool, False, ANY_OPTIMIZER),
    "zero_contigious_gradients": needless(bool, False, LAYOUT),
    "contigious_checkpointing": needless(bool, False, LAYOUT),
    "distribute_checkpointed_activations": needless(bool, False, LAYOUT),
    "optimizer.params.comm_backend_name": needless(str, None, ONLY_1BIT),
    "bf16.bf16": needless(bool, True, "another spelling of enabled, which must be there"),
    "bf16.loss_scale": needless(float, 0.0, BF16_SCALE),
    "bf16.loss_scale_window": needless(int, 1000, BF16_SCALE),
    "bf16.initial_scale_power": needless(int, 16, BF16_SCALE),
    "bf16.hysteresis": needless(int, 2, BF16_SCALE),
    "bf16.min_loss_scale": needless(float, 1.0, BF16_SCALE),
    "half_precision": needless(bool, None, SET_BY_NEOX),
    "comet_experiment": needless(str, None, SET_BY_NEOX),
    "slurm_comment": needless(str, None, LAUNCH),
    "detect_nvlink_pairs": needless(bool, False, LAUNCH),
    "DDP_impl": needless(str, None, COLLECTIVES),
    "cpu_optimizer": needless(bool, None, ON_DEVICE, told=True),
    "cpu_torch_adam": needless(bool, None, ON_DEVICE, told=True),
    "mask_prob": needless(float, 0.15, NO_BERT),
    "ict_head_size": needless(int, None, NO_BERT),
    "ict_load": needless(str, None, NO_BERT),
    "bert_load": needless(str, None, NO_BERT),
    "titles_data_path": needless(str, None, NO_BERT),
    "query_in_block_prob": needless(float, 0.1, NO_BERT),
    "use_one_sent_docs": needless(bool, False, NO_BERT),
    "report_topk_accuracies": needless(list, None, NO_BERT),
    "faiss_use_gpu": needless(bool, False, NO_BERT),
    "block_data_path": needless(str, None, NO_BERT),
    "indexer_batch_size": needless(int, 128, NO_BERT),
    "indexer_log_interval": needless(int, 1000, NO_BERT),
    "adam_beta1": refused(float, None, BETAS),
    "adam_beta2": refused(float, None, BETAS),
    "onebitadam": refused(bool, None, ADAM_FOR_1BIT),
    "sm3": refused(bool, False, "set optimizer.type to sm3"),
    "sparsity": refused(("none", "all", "interspersed"), "none", SPARSE),
    "apply_residual_connection_post_layernorm": refused(
        bool, False, "the residual stream passes by the norms, as in NeoX since: set it to false"
    ),
    "openai_gelu": refused(bool, False, "set bias_gelu_fusion to true, which is that function"),
    "geglu": refused(bool, False, WIDE),
    "sinusoidal_pos_emb": refused(bool, False, "set pos_emb to sinusoidal"),
    "rpe": refused(bool, False, "set pos_emb to rpe, which has no learned positions beside it"),
    "rpe_causal": needless(bool, True, "attention looks back only, and so does its bias"),
    "greedy": refused(bool, False, "set temperature, top_k and top_p to 0"),
    **PAST_MOE,
}

PAST: Section = {**RENAMED, **REMOVED}
