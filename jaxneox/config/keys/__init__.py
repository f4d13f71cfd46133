"""Every key that a YAML may hold, each with its type, its default and its one fate.

The sections and defaults are those of NeoX's documentation (configs/neox_arguments.md); a dotted
name is a key inside a block. `model`, `training`, `running` and `deepspeed` have the sections of
that documentation, `undocumented` has keys that it does not list, and `past` those that were
renamed or removed. `mamba` and `experts` have the rows of these layers, which are in several
sections.
"""

from jaxneox.config.fates import Alias, Key, Section
from jaxneox.config.keys import deepspeed, experts, model, past, running, training, undocumented

SECTIONS: dict[str, Section] = {
    "NeoXArgsModel": model.MODEL,
    "NeoXArgsMoE": experts.MOE,
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
    "Newer than NeoX's documentation": undocumented.NEWER,
    "From forks": undocumented.FORKS,
    "From NeoX's past": past.PAST,
    "jaxneox's own": undocumented.OURS,
}

KEYS: dict[str, Key] = {name: key for section in SECTIONS.values() for name, key in section.items()}
ALIASES = {name: key.fate.of for name, key in KEYS.items() if isinstance(key.fate, Alias)}
"""The other names of a setting, each with the key for which it stands."""

BLOCKS = {name.rpartition(".")[0] for name in KEYS if "." in name}
"""The keys whose values hold keys of the table."""
