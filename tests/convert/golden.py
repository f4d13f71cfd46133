"""The checkpoints that GPT-NeoX wrote, with the logits that it computed itself.

A few lie in tests/golden; all of them where $JAXNEOX_SHARED is.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("JAXNEOX_SHARED", ROOT.parent / "shared")) / "golden" / "neox"
ARCHITECTURES = SHARED.parent / "neox_arch"
HERE = ROOT / "tests" / "golden" / "neox"

FLOAT32 = (
    *("alibi_mp2", "geglu_mp2", "gptjtied_mp2", "learned_mp2", "legacy_v2_mp2"),
    *("legacy_v2_mp2_pp2", "llama_mp2", "nobiasmlp_gptj_mp1", "pythia_mp1", "pythia_mp2"),
    *("pythia_mp2_drift", "pythia_mp2_pp0", "pythia_mp2_pp2", "pythia_mp4", "seqres_mp2"),
    *("tied_mp1_pp2", "tied_mp2", "zero1_dp2_mp2"),
)
BFLOAT16 = ("bf16_mp2",)
ARRAYS = ("tokens", "labels", "logits", "loss", "train_tokens", "train_losses")


@dataclass(frozen=True)
class Golden:
    folder: Path

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "golden.npz") as arrays:
            return {name: arrays[name] for name in ARRAYS}

    @property
    def tokens(self) -> np.ndarray:
        return self.arrays["tokens"].astype(np.int64)

    @property
    def logits(self) -> np.ndarray:
        return self.arrays["logits"].astype(np.float64)

    @property
    def perplexity(self) -> float:
        return perplexity(self.logits, self.arrays["labels"])


def find_case(name: str, *, optimizer: bool = False) -> Golden:
    """The golden case, or a skip where it is not here.

    Args:
        name: its folder's.
        optimizer: whether its optimizer's files are needed; the cases in tests/golden have none.
    """
    for place in (SHARED / name, ARCHITECTURES / name, HERE / name):
        if place.is_dir() and (not optimizer or has_optimizer(place)):
            return Golden(place)
    what = "the optimizer of " * optimizer + name
    pytest.skip(f"{what} is not among the golden cases here: set JAXNEOX_SHARED")


def has_optimizer(case: Path) -> bool:
    """Whether the files are there in which NeoX keeps the optimizer's state or its shapes."""
    return any(case.glob("global_step*/mp_rank_*_model_states.pt"))


def perplexity(logits_BTV: np.ndarray, labels_BT: np.ndarray) -> float:
    x = logits_BTV.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    picked = np.take_along_axis(x, labels_BT[..., None].astype(np.int64), axis=-1)[..., 0]
    return float(np.exp(np.mean(np.log(np.exp(x).sum(axis=-1)) - picked)))
