"""Greedy generation against transformers' `generate`, the same weights, interleaved in one process.

`python -m tests.generate.against_hf [ROUNDS]`: random weights of Pythia-70M's shape in float32,
prompts of 16 tokens, 128 new ones; the median of the ratios of each round, for batches of 1 and 8.
What is compiled or allocated once is so before the first round.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import jaxneox
from convert import from_hf
from jaxneox.loading import LoadedModel
from jaxneox.parallel.compilation import use_compilation_cache
from tests.convert.commands import call

PROMPT, NEW = 16, 128
SHAPE = GPTNeoXConfig(
    vocab_size=50304,
    hidden_size=512,
    num_hidden_layers=6,
    num_attention_heads=8,
    intermediate_size=2048,
    rotary_pct=0.25,
    max_position_embeddings=2048,
)


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def compare(theirs: GPTNeoXForCausalLM, ours: LoadedModel, rounds: int) -> None:
    for batch in (1, 8):
        prompts = np.random.default_rng(batch).integers(0, 50000, (batch, PROMPT))
        found: dict[str, np.ndarray] = {}

        def hf(prompts=prompts, found=found) -> None:
            with torch.inference_mode():
                found["hf"] = theirs.generate(
                    torch.from_numpy(prompts),
                    attention_mask=torch.ones(prompts.shape),
                    max_new_tokens=NEW,
                    min_new_tokens=NEW,
                    do_sample=False,
                    pad_token_id=0,
                ).numpy()[:, PROMPT:]

        def mine(prompts=prompts, found=found) -> None:
            answers = ours.generate(prompts.tolist(), max_tokens=NEW)
            found["ours"] = np.array([answer.tokens for answer in answers])

        hf(), mine()
        pairs = [(seconds(hf), seconds(mine)) for _ in range(rounds)]
        ratio = statistics.median(a / b for a, b in pairs)
        each = [statistics.median(times) / NEW * 1000 for times in zip(*pairs, strict=True)]
        same = (found["hf"] == found["ours"]).mean()
        print(
            f"batch {batch}: transformers {each[0]:.1f} ms a token, ours {each[1]:.1f}: "
            f"{ratio:.2f} x; {same:.1%} of the tokens are the same"
        )


def main() -> None:
    use_compilation_cache()
    torch.manual_seed(0)
    theirs = GPTNeoXForCausalLM(SHAPE).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(Path(folder) / "hf")
        call(from_hf, Path(folder) / "hf", Path(folder) / "ours", "--no-verify")
        ours = jaxneox.load(str(Path(folder) / "ours"))
        compare(theirs, ours, int(sys.argv[1]) if len(sys.argv) > 1 else 5)


if __name__ == "__main__":
    main()
