"""Trainings from a converted checkpoint, as commands that run as they are printed.

What is the user's own stands in capitals: DIR for the new run's folder, FILE for the data.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxneox.config import load_yaml
from jaxneox.console.hints import command
from jaxneox.data.text import is_text

Keys = Mapping[str, Any]

STEPS = 1000
OWN_TRAINING = ("train-batch-size=8", "lr=1e-5")
"""Where the checkpoint says nothing of its training; the rate is low for any pretrained model."""


def train_on(run: str, keys: Keys, *, tokenizer: bool = True) -> str:
    """Write the command that trains on from the weights alone.

    Args:
        run: the checkpoint's folder.
        keys: of its configuration.
        tokenizer: whether it has one, so that the data may be text.
    """
    settings = [f"train-iters={STEPS}"]
    if "optimizer" not in keys:
        settings += OWN_TRAINING
    if keys.get("lr_decay_iters") is not None:  # of a run that was longer or shorter
        settings.append("lr-decay-iters=null")
    return command("train", run, "--finetune", "--save", "DIR", *_data(tokenizer, settings))


def go_on(run: str, keys: Keys, *, tokenizer: bool = True) -> str:
    """Write the command that continues the training whose optimizer came along."""
    return command("train", run, *([] if _data_is_here(keys) else _data(tokenizer, [])))


def after(dst: Path, *, optimizer: bool = False) -> str:
    """Write the line that ends a conversion."""
    write = go_on if optimizer else train_on
    tokenizer = (dst / "tokenizer").is_dir()
    return f"Next: {write(str(dst), load_yaml([dst / 'config.yml']), tokenizer=tokenizer)}"


def _data(tokenizer: bool, settings: list[str]) -> list[str]:
    if tokenizer:
        return ["--set", "data-path=FILE", *settings]
    return ["--tokens", "FILE.npz", *(["--set", *settings] if settings else [])]


def _data_is_here(keys: Keys) -> bool:
    paths = [keys["data_path"]] if keys.get("data_path") else keys.get("train_data_paths") or []
    return bool(paths) and all(
        is_text(path) or Path(f"{path}.idx").is_file() for path in map(str, paths)
    )
