"""A tiny training run by the command itself, and what it leaves behind."""

import contextlib
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import yaml

from jaxneox import checkpoint
from jaxneox.train.command import main

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["quick", "brown", "foxes", "jump", "over", "lazy", "dogs", "and", "wizards"]

KEYS: dict[str, Any] = {
    "num-layers": 2,
    "hidden-size": 32,
    "num-attention-heads": 4,
    "seq-length": 16,
    "max-position-embeddings": 16,
    "pos-emb": "rotary",
    "no-weight-tying": True,
    "gpt-j-residual": True,
    "hidden-dropout": 0.1,
    "attention-dropout": 0.1,
    "optimizer": {"type": "Adam", "params": {"lr": 0.01}},
    "lr-decay-iters": 250,  # whatever the length: one compiled program for almost all tests
    "train-batch-size": 4,
    "train-iters": 12,
    "checkpoint-factor": 4,
    "eval-iters": 0,
    "split": "80,10,10",
    "tokenizer-type": "CharLevelTokenizer",
}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def write_words(path: Path, documents: int = 60) -> Path:
    chance = random.Random(0)
    lines = (" ".join(chance.choices(WORDS, k=60)) for _ in range(documents))
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


def write_yaml(folder: Path, **changes: Any) -> Path:
    """The tiny run's YAML, beside its data; changes are spelled with `_`."""
    words = folder / "words.jsonl"
    if not words.exists():
        write_words(words)
    keys = KEYS | {"data-path": str(words)}
    keys |= {name.replace("_", "-"): value for name, value in changes.items()}
    path = folder / "tiny.yml"
    path.write_text(yaml.safe_dump(keys))
    return path


def command(*args: str | Path) -> Outcome:
    """`train.py ARGS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(arg) for arg in args])
        except SystemExit as end:
            assert isinstance(end.code, int)
            return Outcome(end.code, out.getvalue(), err.getvalue())
    raise AssertionError("the command ended without a status")


def said(outcome: Outcome) -> list[str]:
    """The lines on stderr but those of waits, which a busy machine has more of."""
    return [line for line in outcome.err.splitlines() if not line.endswith(" …")]


def succeeds(*args: str | Path) -> str:
    outcome = command(*args)
    assert (outcome.code, said(outcome)) == (0, []), outcome.err
    return outcome.out


def error(*args: str | Path) -> str:
    """The one line of a command that must fail."""
    outcome = command(*args)
    lines = said(outcome)
    assert outcome.code == 2 and len(lines) == 1 and lines[0].startswith("error: "), outcome
    return lines[0].removeprefix("error: ")


def process(*args: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    """`train.py ARGS` in a process of its own, which sees the devices that this one sees."""
    env = os.environ | {
        "PYTHONUNBUFFERED": "1",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    line = [sys.executable, str(ROOT / "train.py"), *map(str, args)]
    return subprocess.Popen(line, env=env, **options)


def metrics(run: Path) -> list[dict[str, Any]]:
    """What each step computed, without how long it took."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = {"seconds", "data_wait"}
    return [{name: value for name, value in row.items() if name not in clock} for row in rows]


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in metrics(run)]


def params(run: Path) -> dict[str, np.ndarray]:
    """The newest checkpoint's, straight from the disk."""
    place = checkpoint.find(run)
    shapes = checkpoint.read_shapes(place)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {
        name: jax.ShapeDtypeStruct(shape, np.float32, sharding=device)
        for name, shape in shapes.items()
    }
    return {n: np.asarray(w) for n, w in checkpoint.restore_params(place, abstract).items()}


def assert_same_run(found: Path, expected: Path) -> None:
    """Each step once with the same figures, and the same final parameters: bit for bit."""
    assert metrics(found) == metrics(expected)
    assert checkpoint.find(found).step == checkpoint.find(expected).step
    one, other = params(found), params(expected)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
