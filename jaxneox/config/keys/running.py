"""The rows of NeoXArgsLogging, Other, Parallelism, Textgen and DeepspeedRunner."""

from jaxneox.config.fates import (
    AMOUNT,
    COUNT,
    SHARE,
    STRINGS,
    WHOLE,
    Number,
    Section,
    at_least_1,
    derived,
    entries,
    needless,
    refused,
    unless_false,
    used,
)

COMET = "Comet is no logger here: metrics.jsonl, tensorboard_dir and use_wandb hold the numbers"
NOISE = "how large a batch is worth its cost, in sequences (McCandlish et al. 2018)"
TRACE = "profile's trace holds the memory too"
LAUNCH = "`jaxneox train` is started once on each host: docs/hosts.md"
MESH = "--mesh and the devices that JAX finds decide"
ALONE = "`jaxneox train` continues by itself from the last checkpoint"
SET_BY_NEOX = "NeoX sets it by itself"
SAVE_ITERS = "NeoX computes it, by checkpoint_factor and extra_save_iters"
TRAINING = "NeoX sets it by itself, and `jaxneox evaluate` evaluates alone: leave it out"
ONNX = "it names another implementation of the same gelu"
DEEPSCALE = "DeepSpeed's old name, which does nothing"

LOGGING: Section = {
    "use_wandb": derived(bool, None, "log.wandb", "null: off"),
    "wandb_group": derived(str, None, "log.wandb"),
    "wandb_team": derived(str, None, "log.wandb"),
    "wandb_project": derived(str, "neox", "log.wandb"),
    "wandb_host": derived(str, "https://api.wandb.ai", "log.wandb"),
    "wandb_init_all_ranks": needless(bool, False, "the numbers are the same on every host"),
    "git_hash": needless(str, "613aeb9", SET_BY_NEOX),
    "log_dir": used(str, None, "log.log_dir", "the printed lines, in train.log"),
    "tensorboard_dir": used(str, None, "log.tensorboard_dir"),
    "use_comet": needless(bool, None, COMET, told=True),
    "comet_workspace": needless(str, None, COMET),
    "comet_project": needless(str, None, COMET),
    "comet_experiment_name": needless(str, None, COMET),
    "comet_tags": needless(list, None, COMET),
    "comet_others": needless(dict, None, COMET),
    "log_interval": used(COUNT, 100, "log.interval"),
    "log_grad_pct_zeros": used(
        bool, False, "log.grad_pct_zeros", "the share of all gradients that is exactly 0"
    ),
    "log_param_norm": used(bool, False, "log.param_norm"),
    "log_grad_norm": needless(bool, False, "the gradient's norm is always logged"),
    "log_optimizer_states": used(
        bool, False, "log.optimizer_norms", "the norm of each kind of moment"
    ),
    "log_gradient_noise_scale": derived(bool, False, "log.noise_scale", NOISE),
    "gradient_noise_scale_n_batches": derived(
        Number(int, 2), 5, "log.noise_scale", "steps of an estimate"
    ),
    "gradient_noise_scale_cpu_offload": needless(
        bool, False, "the sum of gradients is divided over devices as the moments are"
    ),
    "memory_profiling": needless(bool, False, TRACE),
    "memory_profiling_path": needless(str, None, TRACE),
    "profile": derived(bool, False, "log.profile", "in tensorboard_dir, else in save"),
    "profile_step_start": derived(WHOLE, 10, "log.profile"),
    "profile_step_stop": derived(WHOLE, 12, "log.profile"),
}

OTHER: Section = {
    "distributed_backend": needless(str, "nccl", "JAX chooses it by the device"),
    "local_rank": needless(int, None, LAUNCH),
    "rank": needless(int, None, LAUNCH),
    "lazy_mpu_init": needless(bool, False, LAUNCH),
    "short_seq_prob": needless(float, 0.1, "only for BERT's data; NeoX does not use it either"),
    "eod_mask_loss": used(bool, False, "data.eod_mask_loss"),
    "adlr_autoresume": needless(bool, False, ALONE),
    "adlr_autoresume_interval": needless(int, 1000, ALONE),
    "seed": used(Number(int, 0, 2**32 - 1), 1234, "train.seed"),
    "onnx_safe": needless(bool, False, ONNX),
    "deepscale": needless(bool, False, DEEPSCALE),
    "deepscale_config": needless(str, None, DEEPSCALE),
    "deepspeed_mpi": needless(bool, False, LAUNCH),
    "deepspeed_slurm": needless(bool, False, LAUNCH),
    "user_script": needless(str, None, LAUNCH),
    "iteration": used(WHOLE, None, "checkpoint.iteration", "null: the newest"),
    "do_train": refused(bool, None, TRAINING, True),
    "do_valid": used(bool, None, "train.do_valid", "null: true", by=unless_false),
    "do_test": used(bool, None, "train.do_test", "null: true", by=unless_false),
    "save_iters": needless(list, None, SAVE_ITERS, told=True),
    "global_num_gpus": needless(int, None, MESH),
}

PARALLELISM: Section = {
    "pipe_parallel_size": used(WHOLE, 0, "parallel.pp", "0 and 1: no pipeline", by=at_least_1),
    "model_parallel_size": used(WHOLE, 1, "parallel.tp", "also pads the vocabulary", by=at_least_1),
    "pipe_partition_method": needless(
        str, "type:transformer|mlp", "all stages have as many layers"
    ),
    "world_size": needless(int, None, MESH),
    "is_pipe_parallel": needless(bool, False, SET_BY_NEOX),
    "sequence_parallel": used(bool, False, "parallel.sequence_parallel"),
}

TEXTGEN: Section = {
    "text_gen_type": used(
        str, None, "generation.kind", "for `jaxneox generate`, as the keys below"
    ),
    "precompute_model_name": used(
        str,
        None,
        "objective.reference",
        "log-probabilities beside the data, by `jaxneox precompute`",
    ),
    "temperature": used(AMOUNT, 0.0, "generation.temperature", "0 with the next two 0: greedy"),
    "top_p": used(SHARE, 0.0, "generation.top_p", "0: no limit"),
    "top_k": used(WHOLE, 0, "generation.top_k", "0: no limit"),
    "return_logits": refused(bool, False, "`jaxneox.load(…)(tokens)` gives the logits"),
    "maximum_tokens": used(COUNT, 64, "generation.max_tokens"),
    "prompt_end": used(str, "\n", "generation.prompt_end"),
    "sample_input_file": used(str, None, "generation.input_file"),
    "sample_output_file": derived(
        str, "samples.txt", "generation.output_file", "not set: the terminal"
    ),
    "num_samples": used(COUNT, 1, "generation.samples", "texts without a prompt"),
    "recompute": used(bool, False, "generation.recompute", "without a cache"),
    "eval_results_prefix": used(
        str, "", "train.eval_results_prefix", "files PREFIX_eval_results_step_N.json"
    ),
    "eval_tasks": used(
        STRINGS,
        None,
        "train.eval_tasks",
        "every eval_interval steps; TASK=FILE for local files, a YAML file for a task of one's own",
        by=entries,
    ),
}

RUNNER: Section = {
    "hostfile": needless(str, None, LAUNCH),
    "include": needless(str, None, LAUNCH),
    "exclude": needless(str, None, LAUNCH),
    "num_nodes": needless(int, -1, LAUNCH),
    "num_gpus": needless(int, None, LAUNCH),
    "master_port": needless(int, 29500, LAUNCH),
    "master_addr": needless(str, None, LAUNCH),
    "launcher": needless(str, "pdsh", LAUNCH),
    "force_multi": needless(bool, False, LAUNCH),
    "autotuning_run": refused(str, None, "DeepSpeed's launcher has it: leave it out"),
    "no_ssh_check": needless(bool, False, LAUNCH),
    "comment": needless(str, None, LAUNCH),
    "account": needless(str, None, LAUNCH),
}
