"""Commands that train from a converted checkpoint; they run as they are printed.

The user's own names are in capitals: DIR for the new run's folder, FILE for the data, PREFIX for
the datasets that `jaxneox preprocess` makes of it.
"""

import re
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

PAIRS = {
    f"{side}_train_{labels}data_paths": f"[PREFIX_{text}_{labels}document]"
    for side, text in (("pos", "chosen"), ("neg", "rejected"))
    for labels in ("", "label_")
}
RATED = {
    f"train_{what}data_paths": f"[PREFIX_text_{what}document]" for what in ("", "label_", "reward_")
}
DATASETS: Mapping[str, Mapping[str, str]] = {
    "dpo": PAIRS,
    "rm": PAIRS,
    "kto": RATED,
    "reinforce": RATED,
}
"""By train_impl, the keys of its data, and what `preprocess` calls them."""

OF_DATA = re.compile(
    r"data_path|((pos|neg)_)?(train|valid|test)_((label|reward)_)?data_(paths|weights)"
)
"""Keys that name data, of which those of one kind must not stand beside those of another."""


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
    return command("train", run, "--finetune", "--save", "DIR", *_data(keys, tokenizer, settings))


def go_on(run: str, keys: Keys, *, tokenizer: bool = True) -> str:
    """Return the command that continues the training whose optimizer was converted too."""
    return command("train", run, *([] if _data_is_here(keys) else _data(keys, tokenizer, [])))


def after(dst: Path, *, optimizer: bool = False) -> str:
    """Return the lines that end a conversion; a reward model is first of all for values."""
    keys, tokenizer = load_yaml([dst / "config.yml"]), (dst / "tokenizer").is_dir()
    commands = [(go_on if optimizer else train_on)(str(dst), keys, tokenizer=tokenizer)]
    if keys.get("train_impl") == "rm" and tokenizer:
        commands.insert(0, command("evaluate", str(dst), "--rewards", "FILE"))
    return "Next: " + "\n      ".join(commands)


def _data(keys: Keys, tokenizer: bool, settings: list[str]) -> list[str]:
    datasets = DATASETS.get(str(keys.get("train_impl")), {})
    if not datasets and not tokenizer:
        return ["--tokens", "FILE.npz", *(["--set", *settings] if settings else [])]
    data = datasets or {"data_path": "FILE"}
    unset = [name for name in keys if OF_DATA.fullmatch(name) and name not in data]
    given = {**data, **{name: "null" for name in unset if keys[name] is not None}}
    return [
        "--set",
        *(f"{name.replace('_', '-')}={value}" for name, value in given.items()),
        *settings,
    ]


def _data_is_here(keys: Keys) -> bool:
    try:
        data = Settings(keys).data
    except UserError:  # keys that contradict each other name no data
        return False
    paths = data.source("train").files if data.path is None else (data.path,)
    return bool(paths) and all(is_text(path) or Path(f"{path}.idx").is_file() for path in paths)
