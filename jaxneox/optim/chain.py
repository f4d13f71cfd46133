"""What the optimizers' chains have in common."""

import optax

Chain = list[optax.GradientTransformation]
"""Transformations in their order, of which there may be none."""


def decays(name: str) -> bool:
    """Tell whether a parameter has weight decay: matrices and embeddings, not norms and biases.

    These are NeoX's groups.
    """
    return name.rpartition(".")[2] not in ("scale", "g") and not name.endswith("bias")
