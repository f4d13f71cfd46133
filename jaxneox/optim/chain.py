"""What the optimizers' chains have in common."""

import optax

Chain = list[optax.GradientTransformation]
"""Transformations in their order, of which there may be none."""


def decays(name: str) -> bool:
    """Tell whether a parameter has weight decay.

    Matrices and embeddings have, norms, biases and a state space's A and D have not. These are
    NeoX's groups.
    """
    leaf = name.rpartition(".")[2]
    return leaf not in ("scale", "g", "a_log", "skip") and not leaf.endswith("bias")
