"""Rules that map the tensors of other programs to ours, including the order of their numbers.

- `rule`: what a rule says of a tensor, and how its numbers are put and taken.
- `neox`, `megatron`: the tensors of these programs, and how their ranks share them.
- `mamba`: those of a selective state space, which have the same names everywhere.
- `hf_neox`, `hf_llama`, `hf_gpt2`, `hf_mixtral`, `hf_olmoe`, `hf_mamba`: those of transformers'
  families, and `hf_experts` those of their mixtures.
"""
