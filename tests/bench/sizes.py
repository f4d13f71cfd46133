"""Models named after Pythia's, as transformers and as our keys have them; random weights."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Size(NamedTuple):
    layers: int
    hidden: int
    heads: int


SIZES = {
    "14m": Size(6, 128, 4),
    "70m": Size(6, 512, 8),
    "160m": Size(12, 768, 12),
    "410m": Size(24, 1024, 16),
    "1.4b": Size(24, 2048, 16),
    "2.8b": Size(32, 2560, 32),
}
"""github.com/EleutherAI/pythia, models/"""

VOCABULARY = 50304
RATE = 1e-4
CLIP = 1.0


@dataclass(frozen=True)
class Case:
    """What is measured: a size with a batch.

    Attributes:
        length: tokens of a sequence, or of a prompt.
        dtype: float32 or bfloat16, of the computation; parameters and moments are in float32.
        new: tokens generated after a prompt.
        alone: contenders of this size do not fit into a device's memory together.
        folder: of files, which is there while the case is measured.
    """

    size: str
    batch: int
    length: int
    dtype: str = "float32"
    new: int = 0
    alone: bool = False
    folder: str = ""

    @property
    def context(self) -> int:
        return self.length + self.new

    @property
    def keys(self) -> dict[str, Any]:
        """Our YAML's."""
        size = SIZES[self.size]
        keys = {
            "num_layers": size.layers,
            "hidden_size": size.hidden,
            "num_attention_heads": size.heads,
            "seq_length": self.context,
            "max_position_embeddings": self.context,
            "padded_vocab_size": VOCABULARY,
            "pos_emb": "rotary",
            "rotary_pct": 0.25,
            "no_weight_tying": True,
            "gpt_j_residual": True,
            "hidden_dropout": 0,
            "attention_dropout": 0,
            "optimizer": {"type": "Adam", "params": {"lr": RATE, "betas": [0.9, 0.95]}},
            "lr_decay_style": "constant",
            "warmup": 0,
            "weight_decay": 0.01,
            "gradient_clipping": CLIP,
            "train_batch_size": self.batch,
            "train_iters": 1000,
        }
        if self.dtype == "bfloat16":
            keys["precision"] = "bfloat16"
        return keys

    def theirs(self) -> Any:
        """transformers' GPTNeoXConfig."""
        from transformers import GPTNeoXConfig

        size = SIZES[self.size]
        return GPTNeoXConfig(
            vocab_size=VOCABULARY,
            hidden_size=size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=4 * size.hidden,
            rotary_pct=0.25,
            max_position_embeddings=self.context,
            attn_implementation="sdpa",
            use_cache=bool(self.new),
        )

    def tokens(self, length: int) -> np.ndarray:
        """int32 [batch, length], the same for all contenders."""
        chance = np.random.default_rng(0)
        return chance.integers(0, VOCABULARY, (self.batch, length), dtype=np.int32)
