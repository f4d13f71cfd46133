"""Inspection of checkpoints: a module for each kind collects `Facts`, and `screen` shows them.

- `recognise`: the kind, from the names in a folder.
- `neox`, `hf`, `jaxneox`, `megatron`: the facts of each kind.
- `neox_drift`, `neox_optimizer`: of a NeoX run, how far the ranks' copies have drifted, and what
  its optimizer's files hold.
- `megatron_files`, `megatron_model`: of a Megatron-LM run, its files as names and shapes, and the
  model that they show.
- `finite`: which weights hold NaN or infinity.
- `uses`: what can be done with a checkpoint, and what cannot; `neox_uses`: with a NeoX run.
- `facts`: what is known of a checkpoint, by the names that `--json` prints.
- `architecture`: a model in a few words; `screen`: all facts as one screen of text.
"""
