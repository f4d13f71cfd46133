"""What a training step costs that computes next to nothing: the whole loop of train.py, with data,
figures and metrics.jsonl.

The model is so small that its step is the call of a compiled program and little else; as layers are
stacked, it takes and gives as many arrays as any other. What it computes is counted, so that the
Python of a step is less.
"""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxneox.config import Settings
from jaxneox.data.writer import IndexedWriter
from jaxneox.train.loop.loop import train
from jaxneox.train.plan import build_plan
from jaxneox.train.reporting.metrics import read_metrics
from jaxneox.train.run import start
from tests.bench.clock import Seconds
from tests.bench.ours.model import ONE
from tests.bench.sizes import Case

PREFIX = "documents"
STEPS, WARM = 600, 100
TINY: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "seq_length": 8,
    "max_position_embeddings": 8,
    "padded_vocab_size": 128,
    "train_batch_size": 1,
    "train_iters": STEPS,
    "split": "100,0,0",
    "eval_iters": 0,
    "log_interval": 100,
}


def write(case: Case) -> Callable[[], None]:
    def run() -> None:
        chance = np.random.default_rng(0)
        with IndexedWriter(Path(case.folder) / PREFIX, np.uint16) as writer:
            for size in chance.integers(20, 400, 200):
                writer.add(chance.integers(0, TINY["padded_vocab_size"], size))

    return run


def prepare(case: Case) -> Callable[[], Seconds]:
    """-> a run of training; its median step, from one step's figures to the next one's."""
    jax.config.update("jax_compilation_cache_dir", case.folder)  # each run compiles anew

    def run() -> Seconds:
        folder = tempfile.mkdtemp(dir=case.folder)
        keys = case.keys | TINY | {"data_path": str(Path(case.folder) / PREFIX), "save": folder}
        plan = build_plan(Settings(keys).resolve(dp=1, vocab_size=None), ONE)
        train(start(plan, None))
        steps = read_metrics(Path(folder) / "metrics.jsonl")[WARM:]
        return Seconds(statistics.median(step["seconds"] for step in steps))

    return run
