"""Runs transformers as a user would."""

from pathlib import Path

import numpy as np


def available() -> bool:
    """Tell whether torch and transformers are installed."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        return False
    return True


def logits(folder: Path, tokens_BT: np.ndarray) -> np.ndarray:
    """Compute a model's logits: int tokens [B, T] to float32 [B, T, V]."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.from_numpy(tokens_BT)).logits.numpy()


def values(folder: Path, tokens_BT: np.ndarray) -> np.ndarray:
    """Compute a reward model's value after every token: int tokens [B, T] to float32 [B, T, 1].

    The model itself returns that of the last token of each text alone.
    """
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        hidden = model.base_model(torch.from_numpy(tokens_BT)).last_hidden_state
        found: np.ndarray = model.score(hidden).numpy()
        return found
