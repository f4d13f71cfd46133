"""Files as lazy NumPy arrays; nothing that they name is run, and torch is not needed.

- `torch_file`: what torch.save wrote; `pickles`: an unpickler of numbers and torch's types alone,
  by `pickle_opcodes` on a `pickle_machine`; `pickle_extent`: how deep and large a value may be.
- `torch_dist`: what torch.distributed.checkpoint wrote.
- `digest`: checksums, computed beside the reading.
- `neox_files`: which files a run of NeoX has; `neox_open`: they are whole and of one run; `neox`:
  its tensors by module and rank; `neox_mlp_keys`: the YAML of mlp_type llama in HEAD's keys;
  `neox_experts_keys`: what NeoX's mixtures are, in ours.
- `neox_optimizer`: Adam's state, by `neox_adam` (without ZeRO) or `neox_zero` (in parts);
  `neox_state`: what both return.
- `megatron_files`, `megatron_shards`, `megatron_names`, `megatron`: see `convert.megatron`.
- `megatron_optimizer`: Adam's state, by `megatron_states`; `megatron_flat`: flat buffers cut up.
- `hf_files`: a folder of transformers; `hf`: it as our parameters; `hub`: names and revisions of
  the hub.
- `jaxneox`: a step of a run of ours, and its moments; `adapter`: one of LoRA's matrices alone.
"""
