"""NeoX's YAML keys and what they mean.

`load_yaml` reads files into one dictionary of keys, `Settings` checks the keys and is asked for the
parts of a run, and its `resolve` builds the whole run, a frozen `Config`.

From files to checked keys:

- `shipped`: the configurations of the package, found by name.
- `strict_yaml`: parses YAML that nobody has to trust; `merge` reads files of it, and merges them
  into one dictionary.
- `override`: `--set key=value`; `values`: keys that are given in Python.
- `present`: keys of NeoX's past in the names of today.
- `swapped`: files in which num_layers and num_attention_heads are exchanged, as in
  pythia-12b-deduped.yml.
- `keys/`: the table of all keys, one row each; `fates` has the kinds of rows.
- `check`: holds keys against the table: names, types, what is refused.
- `other_names`: names in other programs, for suggestions.
- `dotted`: keys inside blocks, by their dotted names.

From keys to parts of a run, where no single key sets a field:

- `settings`: builds each part of a run when it is asked for.
- `architecture`: the model's sizes and names, and the padded vocabulary; `rope` its scaling;
  `lora` what is trained beside it; `mamba` and `experts` the layers of these kinds.
- `batch`: global = micro * accumulation * dp.
- `optimization`: precision, loss scale, optimizer and schedule.
- `mup`: what muP changes in them; `base_shapes`: the files of its base.
- `divisors`: of a number of any size.
- `objective`: what is trained for.
- `data`: where the data are, for each kind of training.
- `curriculum`: the lengths of rows, of more and more positions.
- `running`: logs, rematerialization, generation, mesh and tokenizer.

The result, and what is shown of it:

- `schema`: the frozen parts; `data_schema` has those on which the batches depend, `running_schema`
  those of checkpoints, logs and generated text, `optimization_schema` those of the optimizer,
  `objective_schema` what is trained for, `layer_schema` the kinds of layers, `mamba_schema` those
  that are mamba's; `widths`: a model beside muP's base.
- `describe`: a configuration in plain lines, and the keys that are saved with a run.
- `docs`: makes docs/configuration.md.
"""

from jaxneox.config.describe import describe, saved_keys
from jaxneox.config.merge import load_yaml
from jaxneox.config.override import apply_set, override
from jaxneox.config.schema import Config
from jaxneox.config.settings import Settings
from jaxneox.config.values import keys_of

__all__ = [
    "Config",
    "Settings",
    "apply_set",
    "describe",
    "keys_of",
    "load_yaml",
    "override",
    "saved_keys",
]
