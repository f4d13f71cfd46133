"""Commands that train from a converted checkpoint; they run as they are printed.

The user's own names are in capitals: DIR for the new run's folder, FILE for the data.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert.ours.training_placeholders import RATE, is_placeholder
from jaxneox.config import Settings, load_yaml
from jaxneox.console.hints import command
from jaxneox.data.text import is_text
from jaxneox.errors import UserError

Keys = Mapping[str, Any]

STEPS = 1000
BATCH = 8
"""The number of steps, and of sequences per step, if the checkpoint does not say how to train."""


def train_on(run: str, keys: Keys, *, tokenizer: bool = True) -> str:
    """Return the command that starts a new training from the weights alone.

    Args:
        run: the checkpoint's folder.
        keys: the keys of its configuration.
        tokenizer: whether it has a tokenizer, so that the data may be text.
    """
    settings = [f"train-iters={STEPS}"]
    if is_placeholder(keys):
        settings += [f"train-batch-size={BATCH}", f"lr={RATE:g}"]
    if keys.get("lr_decay_iters") is not None:  # of a run that was longer or shorter
        settings.append("lr-decay-iters=null")
    return command("train", run, "--finetune", "--save", "DIR", *_data(tokenizer, settings))


def go_on(run: str, keys: Keys, *, tokenizer: bool = True) -> str:
    """Return the command that continues the training whose optimizer was converted too."""
    return command("train", run, *([] if _data_is_here(keys) else _data(tokenizer, [])))


def after(dst: Path, *, optimizer: bool = False) -> str:
    """Return the line that ends a conversion."""
    write = go_on if optimizer else train_on
    tokenizer = (dst / "tokenizer").is_dir()
    return f"Next: {write(str(dst), load_yaml([dst / 'config.yml']), tokenizer=tokenizer)}"


def _data(tokenizer: bool, settings: list[str]) -> list[str]:
    if tokenizer:
        return ["--set", "data-path=FILE", *settings]
    return ["--tokens", "FILE.npz", *(["--set", *settings] if settings else [])]


def _data_is_here(keys: Keys) -> bool:
    try:
        data = Settings(keys).data
    except UserError:  # keys that contradict each other name no data
        return False
    paths = data.source("train").files if data.path is None else (data.path,)
    return bool(paths) and all(is_text(path) or Path(f"{path}.idx").is_file() for path in paths)
