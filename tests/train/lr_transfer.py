"""Whether the best learning rate of a narrow model is that of a wide one, with muP and without.

`python -m tests.train.lr_transfer --widths 64 256`: a model of two layers reads the bytes of docs/
at each width and rate, a run's loss is the mean of its last ten steps, and the table of
docs/mup.md is printed. Every rate is one of 2 ^ -12 to 2 ^ -4; half an hour on two cores.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import jaxneox
from jaxneox.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
LENGTH, ROWS, LAST = 64, 16, 10
RATES = [2.0**-k for k in range(12, 3, -1)]
KEYS: dict[str, Any] = {
    "num_layers": 2,
    "num_attention_heads": 4,
    "seq_length": LENGTH,
    "max_position_embeddings": LENGTH,
    "pos_emb": "rotary",
    "no_weight_tying": True,
    "padded_vocab_size": 256,
    "train_batch_size": ROWS,
    "optimizer": {"type": "Adam", "params": {"betas": [0.9, 0.95]}},
    "lr_decay_style": "constant",
    "warmup": 0.1,
    "weight_decay": 0.0,
    "eval_iters": 0,
}


def text() -> np.ndarray:
    pages = sorted((ROOT / "docs").glob("*.md"))
    return np.frombuffer(b"\n".join(page.read_bytes() for page in pages), np.uint8)


def loss(width: int, rate: float, steps: int, **changes: Any) -> float:
    """Return the mean loss of the last steps, or infinity if the run diverged."""
    stream = text()

    def batch(step: int) -> np.ndarray:
        starts = np.random.default_rng(step).integers(0, len(stream) - LENGTH - 1, ROWS)
        return stream[starts[:, None] + np.arange(LENGTH + 1)].astype(np.int32)

    keys = KEYS | {"hidden_size": width, "train_iters": steps, "lr": rate} | changes
    try:
        run = jaxneox.fit(keys, batch, mesh="dp=1", verbose=False)
    except UserError as error:
        if "loss" not in str(error):
            raise
        return float("inf")
    return float(np.mean([figures["loss"] for figures in run.figures[-LAST:]]))


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--widths", nargs="+", type=int, default=[64, 256])
    p.add_argument("--steps", type=int, default=60)
    args = p.parse_args()
    base = {"use_mup": True, "mup_base_hidden_size": min(args.widths)}
    print("| parametrization | width | " + " | ".join(f"2^{np.log2(r):.0f}" for r in RATES)
          + " | best |")  # fmt: skip
    print("|---" * (len(RATES) + 3) + "|")
    for name, changes in (("muP", base), ("standard", {})):
        for width in args.widths:
            losses = [loss(width, rate, args.steps, **changes) for rate in RATES]
            best = RATES[int(np.argmin(losses))]
            cells = [name, str(width), *(f"{x:.3f}" for x in losses), f"2^{np.log2(best):.0f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
