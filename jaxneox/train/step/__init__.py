"""The compiled step: its state, its batches, and what it costs.

- `step`: gradients, accumulation, the update and the figures of one step.
- `state`: parameters, optimizer and counts, and how each array is sharded.
- `offload`: moments that wait in the host's memory.
- `feed`: a loader's rows as a batch on the devices; `curriculum`: the positions of them that count.
- `scaler`: the loss scale of float16.
- `noise_scale`: the gradient noise scale; `measures`: other figures of gradients and moments.
- `flops`: floating-point operations of a token, and of a device.
"""
