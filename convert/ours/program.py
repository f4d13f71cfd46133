"""jaxneox itself, as a user runs it."""

from pathlib import Path

import numpy as np


def logits(folder: Path, tokens_BT: np.ndarray) -> np.ndarray:
    """int [B, T] -> float32 [B, T, V]"""
    import jaxneox

    return np.asarray(jaxneox.load(str(folder))(tokens_BT))
