"""Small valid files of every kind, made anew in a folder; nothing here is damaged.

jax and torch are imported inside: what makes these runs in a process of its own.
"""

import contextlib
import io
import shutil
from pathlib import Path

import numpy as np


def model(folder: Path) -> None:
    """A GPT-NeoX in transformers' files, as safetensors."""
    from convert import to_hf
    from tests.convert.hf_models import GPT_NEOX, write_run

    write_run(folder / "run", GPT_NEOX)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        to_hf.main([str(folder / "run"), str(folder / "hf")])
    shutil.rmtree(folder / "run")


def tokenizer(folder: Path) -> None:
    from tests.convert.tokenizer_folders import neox

    folder.mkdir()
    neox(folder)


def run(folder: Path) -> None:
    """A run of a few steps, with its log."""
    from tests.train.runs import command, write_yaml

    path = write_yaml(folder, train_iters=4, checkpoint_factor=4)
    outcome = command(path, "--save", folder / "run")
    assert outcome.code == 0, outcome.err


def dataset(folder: Path) -> None:
    from jaxneox.data.writer import write_index

    sizes, documents = np.array([3, 1, 0, 4, 2, 5]), np.array([0, 1, 1, 3, 6])
    (folder / "x.bin").write_bytes(np.arange(sizes.sum(), dtype="<u2").tobytes())
    with (folder / "x.idx").open("wb") as file:
        write_index(file, np.dtype("<u2"), sizes, documents)


def arrays(folder: Path) -> None:
    tokens = np.arange(24).reshape(2, 12) % 7
    np.savez(folder / "x.npz", tokens=tokens)
    np.savez_compressed(folder / "y.npz", tokens=tokens[None], loss_mask=np.ones((1, 2, 11)))


def make(folder: Path) -> None:
    """Make all of them."""
    folder.mkdir()
    model(folder)
    tokenizer(folder / "tokenizer")
    run(folder)
    dataset(folder)
    arrays(folder)
