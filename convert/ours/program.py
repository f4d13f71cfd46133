"""Runs jaxneox itself as a user would."""

from pathlib import Path

import numpy as np


def logits(folder: Path, tokens_BT: np.ndarray) -> np.ndarray:
    """Compute a checkpoint's logits: int tokens [B, T] to float32 [B, T, V]."""
    import jaxneox

    return np.asarray(jaxneox.load(str(folder))(tokens_BT))
