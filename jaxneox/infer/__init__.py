"""Inference from a checkpoint: text that goes on, and how likely text is.

- `generate`: answers to any number of prompts.
- `engine`: a pool of rows that generate together, each with a cache of keys and values; `programs`:
  its compiled functions; `pools`: engines for a model, and for adapters beside its arrays.
- `tasks`: the answers that are being generated, one in each row.
- `sampling`: the choice of the next token; `penalties`: logits raised and lowered before it.
- `stopping`: what ends an answer.
- `stream`: text while it is being generated, and where it ends.
- `recompute`: generation without a cache.
- `scoring`: how likely given tokens are; requests run in batches of similar length.
- `rewards`: how a reward model values texts, in the same batches.
- `prompt_scores`: how likely the tokens of a prompt are, for `echo` with `logprobs`.
"""
