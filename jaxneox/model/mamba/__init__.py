"""A layer's selective state space (Mamba).

- `mixer`: its parameters, and how they make step sizes, B and C of the tokens.
- `convolution`: each channel's sum over its last few tokens.
- `selective_scan`: the recurrence, in chunks, with a backward pass of its own.
- `first_values`: initial parameters that are not drawn as other weights.
- `decoding`: the mixer with a state, for prompts and next tokens.
"""
