"""Which programs are compiled for which devices that are not here."""

from dataclasses import dataclass
from typing import Any

MODEL: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "seq_length": 512,
    "max_position_embeddings": 512,
    "padded_vocab_size": 8192,
    "pos_emb": "rotary",
    "gpt_j_residual": True,
    "no_weight_tying": True,
    "hidden_dropout": 0,
    "attention_dropout": 0,
    "precision": "bfloat16",
    "train_batch_size": 16,
    "train_iters": 10,
}
FULL = {"checkpoint_activations": True, "remat_policy": "full"}
ZERO_3 = {"zero_optimization": {"stage": 3}, "sequence_parallel": True} | FULL


@dataclass(frozen=True)
class Program:
    """What is compiled.

    Attributes:
        mesh: devices by axis.
        keys: of the YAML, over `MODEL`.
        kind: a training step; or, of a pool of rows, new prompts or one more token of each row.
    """

    mesh: str
    keys: dict[str, Any]
    kind: str = "step"


PROGRAMS = {
    "dense": Program("dp=4,tp=2", ZERO_3),
    "lora": Program("dp=4,tp=2", ZERO_3 | {"lora": {"rank": 8}}),
    "pipeline": Program("pp=2,dp=2,tp=2", {"train_micro_batch_size_per_gpu": 2} | FULL),
    "ring": Program("dp=2,cp=4", {"context_parallel_attention": "ring"} | FULL),
    "prefill": Program("dp=2,tp=4", {}, "prompts"),
    "decode": Program("dp=2,tp=4", {}, "token"),
}

COMPILED = {
    "h100:8": tuple(PROGRAMS),
    "v5p:2x2x2": ("dense", "ring", "decode"),
    "v5e:2x4": ("dense", "pipeline", "prefill"),
}
"""By topology: the names of what is compiled for it, in one process."""
