"""Every key that a YAML may hold, each with its type, its default and its one fate.

The sections and defaults are those of NeoX's documentation (configs/neox_arguments.md); a dotted
name is a key inside a block.
"""

from jaxneox.config.fates import Key, Section
from jaxneox.config.keys import deepspeed, further, model, running, training

SECTIONS: dict[str, Section] = {
    "NeoXArgsModel": model.MODEL,
    "NeoXArgsMoE": model.MOE,
    "NeoXArgsTraining": training.TRAINING,
    "NeoXArgsOptimizer": training.OPTIMIZER,
    "NeoXArgsLRScheduler": training.LR_SCHEDULER,
    "NeoXArgsTokenizer": training.TOKENIZER,
    "NeoXArgsParallelism": running.PARALLELISM,
    "NeoXArgsLogging": running.LOGGING,
    "NeoXArgsOther": running.OTHER,
    "NeoXArgsTextgen": running.TEXTGEN,
    "NeoXArgsDeepspeedConfig": deepspeed.DEEPSPEED,
    "NeoXArgsDeepspeedRunner": running.RUNNER,
    "Blocks of DeepSpeed": deepspeed.BLOCKS,
    "Newer than NeoX's documentation": further.NEWER,
    "From forks and older versions": further.OLDER,
    "jaxneox's own": further.OURS,
}

KEYS: dict[str, Key] = {name: key for section in SECTIONS.values() for name, key in section.items()}
# Other names of one setting -> its name. Where both are given they must agree.
ALIASES = {
    "batch_size": "train_micro_batch_size_per_gpu",
    "clip_grad": "gradient_clipping",
    "gas": "gradient_accumulation_steps",
    "hysteresis": "fp16.hysteresis",
    "loss_scale": "fp16.loss_scale",
    "loss_scale_window": "fp16.loss_scale_window",
    "lr": "optimizer.params.lr",
    "min_scale": "fp16.min_loss_scale",
    "optimizer.params.weight_decay": "weight_decay",
    "optimizer_type": "optimizer.type",
    "rope_scaling.rope_type": "rope_scaling.type",
    "zero_stage": "zero_optimization.stage",
}
BLOCKS = {name.rpartition(".")[0] for name in KEYS if "." in name}  # dicts whose keys we know
