"""Files as lazy NumPy arrays; nothing that they name is run, and torch is not needed.

torch_file (what torch.save wrote) by pickles (an unpickler that knows numbers and torch's types
alone); torch_dist
(torch.distributed's); digest (checksums, beside the reading).
neox: neox_files (which files), neox_open (opened and whole), neox (its tensors by module and rank),
neox_mlp_keys; its optimizer: neox_optimizer, neox_adam, neox_zero, neox_state.
megatron: megatron_files, megatron_shards (ranks and stages), megatron_names, megatron (as
parameters); its optimizer: megatron_optimizer, megatron_states, megatron_flat.
hf, hf_files, hub; jaxneox (a step of ours).
"""
