"""`jaxneox coord-check`: whether activations keep their size when a model gets wider.

- `command`: the arguments, and what is printed.
- `measure`: trains a model at one width, and measures its activations.
- `growth`: the exponents by which they grow with the width, and the verdict.
- `picture`: the same as a picture.
"""
