"""The rows of NeoXArgsTraining, NeoXArgsOptimizer, NeoXArgsLRScheduler and NeoXArgsTokenizer."""

from typing import get_args

from jaxneox.config.fates import (
    AMOUNT,
    COUNT,
    FLOATS,
    INTS,
    LENGTH,
    SHARE,
    STRINGS,
    WHOLE,
    Number,
    Section,
    alias,
    derived,
    entries,
    inverted,
    needless,
    or_none,
    refused,
    used,
)
from jaxneox.config.objective_schema import ObjectiveKind
from jaxneox.config.optimization_schema import OptimizerKind

ADAM_FOR_1BIT = "compressed gradients are DeepSpeed's, for slow networks: use Adam"
OPTIMIZERS = {
    "onebitadam": ADAM_FOR_1BIT,
    "onebitlamb": ADAM_FOR_1BIT,
    "zerooneadam": ADAM_FOR_1BIT,
    "lamb": "NeoX's HEAD does not know it either: use AdamW",
    "madgrad_wd": "use AdamW",
}
OPTIMIZERS_ON_CPU: dict[str, OptimizerKind] = {"cpu_adam": "adam", "cpu_torch_adam": "adam"}
OPTIMIZER_TYPES = (*get_args(OptimizerKind), *OPTIMIZERS_ON_CPU, *OPTIMIZERS)
TOKENIZERS = (
    *("GPT2BPETokenizer", "HFTokenizer", "HFGPT2Tokenizer", "SPMTokenizer"),
    *("CharLevelTokenizer", "TiktokenTokenizer"),
)
DATA_IMPL = "of .bin/.idx data only mmap's kind is read, not fairseq's: preprocess the texts anew"
IN_FLOAT32 = "log-probabilities are always float32"
COORD_CHECK = "`jaxneox coord-check CONFIG` does it: set it to false"
S3 = "uploads to Amazon's S3 are not here: leave it out and copy the save folder"
EPOCHS = "passes over the training data; counted in steps, they are train_iters"
FORWARD = "checksums of all arrays say whether a checkpoint is what was saved"
LAYERWISE = "checkpointing is per layer; remat_policy says what is kept"
SCHEDULE = "the schedule is a function of the step and of this YAML"
OLD_SCHEDULE = "true: a run that goes on has the checkpoint's schedule, whatever the YAML says"
RANDOM = "randomness is a function of the seed and the step, so there is no state to keep"
BLOCK = "zero_optimization's block has it, and there it is needless too"
PERPLEXITY = "of evaluations: exp(loss x tokens / characters)"
BNB = "8-bit optimizer states are not here: the states are kept in float32"

LR_SCHEDULER: Section = {
    "lr_decay_style": used(
        ("constant", "linear", "cosine", "exponential"), "linear", "schedule.style"
    ),
    "lr_decay_iters": derived(COUNT, None, "schedule.decay_iters", "null: train_iters"),
    "lr_decay_fraction": derived(SHARE, None, "schedule.decay_iters", "of train_iters"),
    "min_lr": derived(AMOUNT, 0.0, "schedule.min_lr"),
    "warmup": derived(SHARE, 0.01, "schedule.warmup_iters", "share of the decay's steps"),
    "override_lr_scheduler": needless(bool, False, SCHEDULE),
    "use_checkpoint_lr_scheduler": used(bool, False, "checkpoint.load_schedule", OLD_SCHEDULE),
}

OPTIMIZER: Section = {
    "optimizer_type": alias(OPTIMIZER_TYPES, "adam", "optimizer.type"),
    "use_bnb_optimizer": needless(bool, False, BNB, told=True),
    "zero_stage": alias(WHOLE, None, "zero_optimization.stage", "not a list"),
    "zero_reduce_scatter": needless(bool, None, BLOCK),
    "zero_contiguous_gradients": needless(bool, None, BLOCK),
    "zero_reduce_bucket_size": needless(int, None, BLOCK),
    "zero_allgather_bucket_size": needless(int, None, BLOCK),
    "lr": alias(AMOUNT, None, "optimizer.params.lr"),
}

TOKENIZER: Section = {
    "tokenizer_type": used(TOKENIZERS, "GPT2BPETokenizer", "tokenizer.kind"),
    "padded_vocab_size": used(
        LENGTH, None, "tokenizer.padded_size", "set: wins over make_vocab_size_divisible_by"
    ),
}

TRAINING: Section = {
    "data_path": used(str, None, "data.path"),
    "use_shared_fs": needless(bool, True, "each host finds or builds the index"),
    "train_data_paths": derived(STRINGS, None, "data.train.paths"),
    "train_label_data_paths": derived(STRINGS, None, "data.train.labels"),
    "train_reward_data_paths": used(STRINGS, None, "data.train.rewards", by=entries),
    "test_data_paths": derived(STRINGS, None, "data.test.paths"),
    "test_label_data_paths": derived(STRINGS, None, "data.test.labels"),
    "test_reward_data_paths": used(STRINGS, None, "data.test.rewards", by=entries),
    "valid_data_paths": derived(STRINGS, None, "data.valid.paths"),
    "valid_label_data_paths": derived(STRINGS, None, "data.valid.labels"),
    "valid_reward_data_paths": used(STRINGS, None, "data.valid.rewards", by=entries),
    "pos_train_data_paths": derived(STRINGS, None, "data.train.paths", "of the chosen texts"),
    "neg_train_data_paths": used(STRINGS, None, "data.train.rejected", by=entries),
    "pos_train_label_data_paths": derived(
        STRINGS, None, "data.train.labels", "of the chosen texts"
    ),
    "neg_train_label_data_paths": used(STRINGS, None, "data.train.rejected_labels", by=entries),
    "pos_valid_data_paths": derived(STRINGS, None, "data.valid.paths", "of the chosen texts"),
    "neg_valid_data_paths": used(STRINGS, None, "data.valid.rejected", by=entries),
    "pos_valid_label_data_paths": derived(
        STRINGS, None, "data.valid.labels", "of the chosen texts"
    ),
    "neg_valid_label_data_paths": used(STRINGS, None, "data.valid.rejected_labels", by=entries),
    "pos_test_data_paths": derived(STRINGS, None, "data.test.paths", "of the chosen texts"),
    "neg_test_data_paths": used(STRINGS, None, "data.test.rejected", by=entries),
    "pos_test_label_data_paths": derived(STRINGS, None, "data.test.labels", "of the chosen texts"),
    "neg_test_label_data_paths": used(STRINGS, None, "data.test.rejected_labels", by=entries),
    "train_data_weights": used(FLOATS, None, "data.train.weights", "null: equal", by=entries),
    "valid_data_weights": used(FLOATS, None, "data.valid.weights", "null: equal", by=entries),
    "test_data_weights": used(FLOATS, None, "data.test.weights", "null: equal", by=entries),
    "weight_by_num_documents": used(bool, False, "data.weight_by_num_documents"),
    "weighted_sampler_alpha": used(AMOUNT, 1.0, "data.weighted_sampler_alpha"),
    "data_impl": refused(("infer", "mmap", "cached"), "infer", DATA_IMPL, "mmap"),
    "pack_impl": derived(
        ("packed", "pack_until_overflow", "unpacked"),
        "packed",
        "data.pack",
        "left out with dpo, rm, kto or reinforce: unpacked",
    ),
    "dataset_impl": derived(
        ("gpt2", "pairwise", "online"),
        "gpt2",
        "objective.kind",
        "left out: what train_impl needs",
    ),
    "train_impl": used(get_args(ObjectiveKind), "normal", "objective.kind"),
    "dpo_fp32": needless(bool, True, IN_FLOAT32),
    "dpo_reference_free": used(bool, False, "objective.dpo_reference_free"),
    "dpo_beta": used(AMOUNT, 0.1, "objective.dpo_beta"),
    "kto_fp32": needless(bool, True, IN_FLOAT32),
    "kto_desirable_weight": used(AMOUNT, 1.0, "objective.kto_desirable_weight"),
    "kto_undesirable_weight": used(AMOUNT, 1.0, "objective.kto_undesirable_weight"),
    "kto_beta": used(AMOUNT, 0.1, "objective.kto_beta"),
    "allow_chopped": used(bool, True, "data.allow_chopped"),
    "mmap_warmup": needless(bool, False, "the operating system caches what is read"),
    "save": used(str, None, "checkpoint.save"),
    "s3_path": refused(str, None, S3),
    "s3_chunk_size": needless(int, 104857600, "only with s3_path, which is refused"),
    "config_files": needless(dict, None, "NeoX's own copy of the YAMLs"),
    "load": used(str, None, "checkpoint.load"),
    "checkpoint_validation_with_forward_pass": needless(bool, False, FORWARD, told=True),
    "checkpoint_scale": used(("linear", "log"), "linear", "checkpoint.scale"),
    "checkpoint_factor": used(
        COUNT, None, "checkpoint.every", "null with save: only extra_save_iters and the last step"
    ),
    "extra_save_iters": used(INTS, None, "checkpoint.extra_iters", by=entries),
    "no_save_optim": used(bool, False, "checkpoint.save_optimizer", by=inverted),
    "no_save_rng": needless(bool, False, RANDOM),
    "no_load_optim": used(bool, False, "checkpoint.load_optimizer", by=inverted),
    "no_load_rng": needless(bool, False, RANDOM),
    "finetune": used(bool, False, "checkpoint.finetune"),
    "batch_size": alias(COUNT, None, "train_micro_batch_size_per_gpu"),
    "train_iters": used(WHOLE, None, "train.train_iters"),
    "train_epochs": derived(COUNT, None, "data.passes", EPOCHS),
    "eval_iters": used(WHOLE, 100, "train.eval_iters"),
    "keep_last_n_checkpoints": used(COUNT, None, "checkpoint.keep_last"),
    "eval_interval": used(COUNT, 1000, "train.eval_interval"),
    "split": used(str, "969, 30, 1", "data.split"),
    "vocab_file": used(str, None, "tokenizer.vocab_file"),
    "merge_file": used(str, None, "tokenizer.merge_file"),
    "num_workers": needless(int, 2, "batches are read ahead by one thread"),
    "exit_interval": used(WHOLE, None, "train.exit_interval", by=or_none),
    "attention_dropout": used(SHARE, 0.0, "model.attention.dropout"),
    "hidden_dropout": used(SHARE, 0.0, "model.hidden_dropout"),
    "weight_decay": derived(AMOUNT, 0.1, "optimizer.weight_decay"),
    "checkpoint_activations": derived(bool, False, "remat.policy", "true: full"),
    "checkpoint_num_layers": needless(int, 1, LAYERWISE),
    "deepspeed_activation_checkpointing": needless(bool, True, LAYERWISE),
    "contiguous_checkpointing": needless(bool, False, "XLA lays out the memory"),
    "checkpoint_in_cpu": used(bool, False, "remat.in_cpu"),
    "synchronize_each_layer": needless(bool, False, "XLA orders the computation"),
    "profile_backward": needless(bool, False, "profile shows both directions"),
    "partition_activations": needless(bool, False, "sequence_parallel shards what is kept"),
    "clip_grad": alias(AMOUNT, 1.0, "gradient_clipping"),
    "hysteresis": alias(COUNT, 2, "fp16.hysteresis"),
    "dynamic_loss_scale": derived(bool, None, "precision.loss_scale", "null: as loss_scale says"),
    "loss_scale": alias(AMOUNT, None, "fp16.loss_scale", "0 or null: dynamic"),
    "loss_scale_window": alias(AMOUNT, 1000.0, "fp16.loss_scale_window"),
    "min_scale": alias(AMOUNT, 1.0, "fp16.min_loss_scale"),
    "char_level_ppl": used(bool, False, "train.char_level_ppl", PERPLEXITY),
    "use_mup": derived(bool, False, "model.init.widths", "see docs/mup.md"),
    "coord_check": refused(bool, False, COORD_CHECK),
    "save_base_shapes": used(
        bool, False, "checkpoint.save_base_shapes", "writes them, and trains nothing"
    ),
    "base_shapes_file": derived(
        str, None, "optimizer.widths", "NeoX's and mup's, with or without the rank at its end"
    ),
    "mup_init_scale": derived(AMOUNT, 1.0, "model.init.scale"),
    "mup_attn_temp": derived(AMOUNT, 1.0, "model.attention.scale", "divides the scores"),
    "mup_output_temp": derived(AMOUNT, 1.0, "model.multipliers.output", "divides the logits"),
    "mup_embedding_mult": derived(AMOUNT, 1.0, "model.multipliers.embedding"),
    "mup_rp_embedding_mult": derived(
        AMOUNT, 1.0, "model.multipliers.positions", "of learned and sinusoidal positions"
    ),
    "mup_width_scale": used(
        Number(int, 2), 2, "checkpoint.base_width_scale", "by which save_base_shapes tells widths"
    ),
}
