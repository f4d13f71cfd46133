"""Runs jaxneox itself as a user would."""

from pathlib import Path

import numpy as np


def logits(folder: Path, tokens_BT: np.ndarray) -> np.ndarray:
    """Compute a checkpoint's logits: int tokens [B, T] to float32 [B, T, V].

    Of a reward model they are its values, [B, T, 1].
    """
    import jaxneox

    model = jaxneox.load(str(folder))
    if model.config.model.head == "reward":
        return np.asarray(model.values(model.params, tokens_BT))[..., None]
    return np.asarray(model(tokens_BT))
