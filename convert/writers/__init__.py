"""Writers of checkpoints, part by part; a checkpoint gets its final name only when complete.

- `staging`: the folder that has another name until it is whole.
- `jaxneox`: our own parameters; `training`: the optimizer's state beside them.
- `neox`: GPT-NeoX's files; its optimizer's by `neox_adam` (without ZeRO) or `neox_zero` (in parts).
- `megatron`: Megatron-LM's files, in either format.
- `hf`: folders of transformers.
- `torch_save`, `torch_dist`: the two formats of torch.
"""
