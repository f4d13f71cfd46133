"""The program that a user will run, from end to end: the last word on what was written."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from convert.readers.hf import HfCheckpoint
from convert.readers.jaxneox import JaxneoxCheckpoint
from jaxneox.config.schema import ModelConfig

Logits = Callable[[np.ndarray], np.ndarray]
"""int [B, T] -> float32 [B, T, V]"""

SHARE = 0.5
"""Of the free memory that the whole model may take, in float32."""


def program_of(target: Any) -> Logits | str:
    """jaxneox, or transformers, in float32; or why it is not run here."""
    if not isinstance(target, JaxneoxCheckpoint | HfCheckpoint):
        return "not run: GPT-NeoX itself is not here"
    nbytes = 4 * sum(int(np.prod(shape)) for shape in target.shapes.values())
    if nbytes > SHARE * free_memory():
        return f"not run: {nbytes / 1e9:.1f} GB of weights in float32 are too many here"
    if isinstance(target, JaxneoxCheckpoint):
        return lambda tokens_BT: jaxneox_logits(target.place.folder, tokens_BT)
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        return "not run: transformers and torch are not installed"
    return lambda tokens_BT: transformers_logits(target.folder, tokens_BT)


def jaxneox_logits(folder: Path, tokens_BT: np.ndarray) -> np.ndarray:
    import jaxneox

    return np.asarray(jaxneox.load(str(folder))(tokens_BT))


def transformers_logits(folder: Path, tokens_BT: np.ndarray) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.from_numpy(tokens_BT)).logits.numpy()


def free_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no such file on this system: a part of all there is
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def limit(model: ModelConfig) -> float:
    """Of the relative L2 distance between a float32 and a float64 forward pass.

    A float32 rounding is 1.2e-7 at most, and layers' errors add up like a random walk; measured on
    4 layers are 5e-7, and 20 times a rounding for each leaves room for ill-conditioned ones.
    """
    return 20 * 1.2e-7 * max(4.0, model.num_layers**0.5)
