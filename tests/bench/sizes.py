"""Models named after Pythia's, as transformers and as our keys have them; random weights."""

from typing import Any, NamedTuple


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


class Case(NamedTuple):
    """What is measured: a size with a batch."""

    size: str
    batch: int
    length: int
    dtype: str  # float32 or bfloat16, of the computation; parameters and moments are in float32

    @property
    def name(self) -> str:
        return f"{self.size}, {self.batch} x {self.length}, {self.dtype}"

    @property
    def keys(self) -> dict[str, Any]:
        """Our YAML's."""
        size = SIZES[self.size]
        keys = {
            "num_layers": size.layers,
            "hidden_size": size.hidden,
            "num_attention_heads": size.heads,
            "seq_length": self.length,
            "max_position_embeddings": self.length,
            "padded_vocab_size": VOCABULARY,
            "pos_emb": "rotary",
            "rotary_pct": 0.25,
            "no_weight_tying": True,
            "gpt_j_residual": True,
            "hidden_dropout": 0,
            "attention_dropout": 0,
            "optimizer": {"type": "Adam", "params": {"lr": RATE, "betas": [0.9, 0.95]}},
            "weight_decay": 0.01,
            "gradient_clipping": CLIP,
            "train_batch_size": self.batch,
            "train_iters": 1000,
        }
        if self.dtype == "bfloat16":
            keys["precision"] = "bfloat16"
        return keys

    def theirs(self, attention: str) -> Any:
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
            max_position_embeddings=self.length,
            attn_implementation=attention,
            use_cache=False,
        )
