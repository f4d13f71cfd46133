"""The rows of NeoXArgsDeepspeedConfig, and of the keys inside DeepSpeed's blocks, with dots."""

from jaxneox.config.fates import (
    AMOUNT,
    COUNT,
    FLOATS,
    INTS,
    WHOLE,
    Needless,
    Number,
    Section,
    alias,
    derived,
    needless,
    or_none,
    power_of_2,
    refused,
    used,
)
from jaxneox.config.keys.model import SPARSE
from jaxneox.config.keys.training import OPTIMIZER_TYPES, OPTIMIZERS

AMP = "it is NVIDIA's apex: use precision: bfloat16 or the fp16 block"
SCHEDULER = "NeoX hands over its own schedule, by lr_decay_style, warmup and min_lr"
REDUCED = "XLA sums gradients over devices; over micro-batches they are summed in float32"
COLLECTIVES = "XLA chooses the collectives and their sizes"
COMPRESSION = "DeepSpeed's pruning and quantizing, which NeoX never starts: leave it out"
SAMPLER = "DeepSpeed's own data loader has it, which NeoX does not use: leave it out"
LENGTHS = "train.curriculum"
ONLY_ROOT = "fixed_root: the length grows by this root of the steps"
NO_CUSTOM = "NeoX has no function for it: use one of the other schedules"
AUTOTUNE = "DeepSpeed's search for its own settings: leave it out; `jaxneox plan --search` is ours"
OFFLOAD = "of what is trained only moments wait on the host; parameters are divided by stage 3"
QUANTIZED = "collectives are exact here"
TRACE = "use profile: true"
METRICS = "metrics.jsonl holds every step"
ELASTIC = "a run continues on any number of devices without it"
ONLY_1BIT = "only for 1-bit optimizers"
LAYOUT = "XLA lays out the memory"
MASTERS = "DeepSpeed has it with its own optimizer on the CPU alone: set it to false"
AMSGRAD = "NeoX's fused Adam refuses it too: leave it out"
OWN_LOGGER = "DeepSpeed's logger: metrics.jsonl, tensorboard_dir and use_wandb hold the numbers"

DEEPSPEED: Section = {
    "deepspeed": needless(bool, True, "there is no DeepSpeed to turn on"),
    "train_batch_size": derived(COUNT, None, "batch.global_size"),
    "train_micro_batch_size_per_gpu": derived(COUNT, None, "batch.micro"),
    "gradient_accumulation_steps": derived(
        COUNT, 1, "batch.accumulation", "unset: derived where train_batch_size is set"
    ),
    "optimizer": derived(dict, None, "optimizer"),
    "scheduler": needless(dict, None, SCHEDULER, told=True),
    "fp32_allreduce": needless(bool, False, REDUCED),
    "prescale_gradients": needless(bool, False, REDUCED),
    "gradient_predivide_factor": needless(float, 1.0, REDUCED),
    "sparse_gradients": needless(bool, False, REDUCED),
    "fp16": derived(dict, None, "precision", "enabled: true is precision: fp16"),
    "bf16": derived(dict, None, "precision", "enabled: true is precision: bfloat16"),
    "amp": refused(dict, None, AMP),
    "gradient_clipping": derived(AMOUNT, 1.0, "optimizer.grad_clip", "NeoX HEAD drops exactly 1.0"),
    "zero_optimization": derived(dict, None, "parallel.zero_stage"),
    "curriculum_learning": derived(
        dict, None, LENGTHS, "a step trains on the first positions of each row"
    ),
    "curriculum_seqlen": needless(int, 0, "NeoX sets it by itself, by curriculum_learning"),
    "steps_per_print": needless(int, 10, "log_interval decides"),
    "wall_clock_breakdown": needless(bool, False, TRACE),
    "dump_state": needless(bool, False, "use --dry-run"),
    "flops_profiler": needless(dict, None, "MFU is always shown; for more use profile: true"),
    "communication_data_type": needless(bool, None, REDUCED),
    "autotuning": refused(dict, None, AUTOTUNE),
    "activation_checkpointing": derived(
        dict, None, "remat", "says how, not whether: checkpoint_activations turns it on"
    ),
    "sparse_attention": refused(dict, None, SPARSE),
    "data_efficiency": refused(dict, None, SAMPLER),
    "tensorboard": needless(dict, None, OWN_LOGGER, told=True),
    "wandb": needless(dict, None, OWN_LOGGER, told=True),
    "csv_monitor": needless(dict, None, METRICS),
    "elasticity": needless(dict, None, ELASTIC),
    "comms_logger": needless(dict, None, TRACE),
    "compression_training": refused(dict, None, COMPRESSION),
    "checkpoint": needless(dict, None, "DeepSpeed's checkpoint options; Orbax writes them here"),
    "data_types": needless(dict, None, REDUCED),
    "deepspeed_extra_args": derived(dict, None, "notes", "only keys that are needless"),
}

BLOCKS: Section = {
    "optimizer.type": derived(OPTIMIZER_TYPES, "adam", "optimizer.kind", refused=OPTIMIZERS),
    "optimizer.params": derived(dict, None, "optimizer"),
    "optimizer.params.lr": used(AMOUNT, 0.001, "optimizer.lr"),
    "optimizer.params.betas": derived(FLOATS, None, "optimizer.betas", "[0.9, 0.999]; lion 0.99"),
    "optimizer.params.eps": derived(AMOUNT, None, "optimizer.eps", "1e-8; sm3 1e-30"),
    "optimizer.params.momentum": derived(
        AMOUNT, 0.0, "optimizer.momentum", "sgd, sm3 and muon (0.95)"
    ),
    "optimizer.params.weight_decay": alias(AMOUNT, None, "weight_decay"),
    "optimizer.params.beta": derived(AMOUNT, None, "optimizer.extra", "sm3"),
    "optimizer.params.freeze_step": needless(int, 400, ONLY_1BIT),
    "optimizer.params.cuda_aware": needless(bool, False, ONLY_1BIT),
    "optimizer.params.torch_adam": needless(bool, False, "one implementation"),
    "optimizer.params.adam_w_mode": used(
        bool, True, "optimizer.decoupled_decay", "adam's; false: L2, added to the gradient"
    ),
    "optimizer.params.bias_correction": used(
        bool, True, "optimizer.bias_correction", "adam's; false: its first steps are larger"
    ),
    "optimizer.params.amsgrad": refused(bool, False, AMSGRAD),
    "fp16.enabled": derived(bool, None, "precision.compute"),
    "fp16.fp16": needless(bool, True, "an old spelling of enabled, which must be there"),
    "fp16.type": derived(
        ("fp16", "bfloat16"), "fp16", "precision.compute", "bfloat16: old NeoX's bf16"
    ),
    "fp16.auto_cast": needless(bool, False, "tokens are integers: there is nothing to cast"),
    "fp16.loss_scale": used(AMOUNT, 0.0, "precision.loss_scale.static", "0: dynamic", by=or_none),
    "fp16.initial_scale_power": used(
        Number(int, 0, 127), 16, "precision.loss_scale.initial", "power of 2", by=power_of_2
    ),
    "fp16.loss_scale_window": used(COUNT, 1000, "precision.loss_scale.window"),
    "fp16.hysteresis": used(COUNT, 2, "precision.loss_scale.hysteresis"),
    "fp16.consecutive_hysteresis": used(bool, False, "precision.loss_scale.consecutive_hysteresis"),
    "fp16.min_loss_scale": used(AMOUNT, 1.0, "precision.loss_scale.minimum"),
    "fp16.fp16_master_weights_and_grads": refused(bool, False, MASTERS),
    "bf16.enabled": derived(bool, None, "precision.compute"),
    "bf16.immediate_grad_update": needless(bool, False, REDUCED),
    "zero_optimization.stage": used(WHOLE, 0, "parallel.zero_stage", "0 to 3"),
    "zero_optimization.allgather_partitions": needless(bool, True, COLLECTIVES),
    "zero_optimization.allgather_bucket_size": needless(int, 500000000, COLLECTIVES),
    "zero_optimization.overlap_comm": needless(bool, False, COLLECTIVES),
    "zero_optimization.reduce_scatter": needless(bool, True, COLLECTIVES),
    "zero_optimization.reduce_bucket_size": needless(int, 500000000, COLLECTIVES),
    "zero_optimization.contiguous_gradients": needless(bool, False, LAYOUT),
    "zero_optimization.load_from_fp32_weights": needless(bool, True, "weights are float32"),
    "zero_optimization.round_robin_gradients": needless(bool, False, COLLECTIVES),
    "zero_optimization.ignore_unused_parameters": needless(bool, True, "all are used"),
    "zero_optimization.elastic_checkpoint": needless(bool, False, ELASTIC),
    "zero_optimization.legacy_stage1": needless(bool, False, "there is one stage 1"),
    "zero_optimization.sub_group_size": needless(int, 1000000000, LAYOUT),
    "zero_optimization.memory_efficient_linear": needless(bool, True, LAYOUT),
    "zero_optimization.stage3_max_live_parameters": needless(int, 1000000000, LAYOUT),
    "zero_optimization.stage3_max_reuse_distance": needless(int, 1000000000, LAYOUT),
    "zero_optimization.stage3_prefetch_bucket_size": needless(int, 50000000, COLLECTIVES),
    "zero_optimization.stage3_param_persistence_threshold": needless(int, 100000, LAYOUT),
    "zero_optimization.stage3_model_persistence_threshold": needless(int, None, LAYOUT),
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": needless(bool, False, ELASTIC),
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": needless(bool, False, ELASTIC),
    "zero_optimization.cpu_offload": derived(
        bool, False, "parallel.offload_optimizer", "DeepSpeed's old name of device: cpu"
    ),
    "zero_optimization.cpu_offload_params": needless(bool, False, OFFLOAD, told=True),
    "zero_optimization.cpu_offload_use_pin_memory": needless(bool, False, OFFLOAD),
    "zero_optimization.offload_param": needless(dict, None, OFFLOAD, told=True),
    "zero_optimization.offload_optimizer": derived(
        dict, None, "parallel.offload_optimizer", "device: cpu or none"
    ),
    "zero_optimization.zero_hpz_partition_size": needless(int, 1, COLLECTIVES),
    "zero_optimization.zero_quantized_weights": needless(bool, False, QUANTIZED, told=True),
    "zero_optimization.zero_quantized_gradients": needless(bool, False, QUANTIZED, told=True),
    "activation_checkpointing.partition_activations": needless(bool, False, LAYOUT),
    "activation_checkpointing.cpu_checkpointing": alias(
        bool, False, "checkpoint_in_cpu", "which is outside of the block", by=or_none
    ),
    "activation_checkpointing.contiguous_memory_optimization": needless(bool, False, LAYOUT),
    "activation_checkpointing.number_checkpoints": needless(int, None, "one per layer"),
    "activation_checkpointing.synchronize_checkpoint_boundary": needless(bool, False, LAYOUT),
    "activation_checkpointing.profile": needless(bool, False, TRACE),
}
BLOCKS |= {
    f"curriculum_learning.{name}": key
    for name, key in {
        "enabled": derived(bool, None, LENGTHS),
        "curriculum_type": derived(("seqlen",), "seqlen", LENGTHS),
        "min_difficulty": derived(COUNT, None, f"{LENGTHS}.least", "positions"),
        "max_difficulty": derived(COUNT, None, f"{LENGTHS}.most", "positions"),
        "schedule_type": derived(
            ("fixed_linear", "fixed_root", "fixed_discrete", "custom"),
            None,
            f"{LENGTHS}.schedule",
            refused={"custom": NO_CUSTOM},
        ),
        "schedule_config": derived(dict, None, LENGTHS),
        "schedule_config.total_curriculum_step": derived(COUNT, None, f"{LENGTHS}.total"),
        "schedule_config.difficulty_step": derived(
            COUNT, None, f"{LENGTHS}.multiple", "lengths are rounded down to a multiple of it"
        ),
        "schedule_config.root_degree": derived(COUNT, None, f"{LENGTHS}.root", ONLY_ROOT),
        "schedule_config.difficulty": derived(
            INTS, None, f"{LENGTHS}.lengths", "fixed_discrete: one after the other"
        ),
        "schedule_config.max_step": derived(
            INTS, None, f"{LENGTHS}.until", "fixed_discrete: the last step of each but the last"
        ),
    }.items()
}
BLOCKS |= {
    f"deepspeed_extra_args.{name}": key
    for name, key in DEEPSPEED.items()
    if isinstance(key.fate, Needless)
}
