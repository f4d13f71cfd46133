"""What the command prints of its data before, and what to do with the model after."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from jaxneox.console.hints import command
from jaxneox.console.units import counted, significant
from jaxneox.data import load_tokenizer
from jaxneox.templates.source import template_of
from jaxneox.train.fit import FittedRun
from jaxneox.tune.datasets import Prepared
from jaxneox.tune.kinds import Kind
from jaxneox.tune.watching import Watch


def of_the_data(kind: Kind, prepared: Prepared, length: int, template: str) -> str:
    """Say what the data has, and what of it is not trained on."""
    train, valid = prepared.train, prepared.valid
    lines = [
        f"{train.documents:,} {kind.name} to train on, {valid.documents:,} held out",
        f"{train.tokens:,} tokens, of which {train.learned:,} are learned",
    ]
    if kind.is_chat:
        lines.append(f"the chat template is {template}")
    if train.rewards:
        above, below = (sum(sign * one > 0 for one in train.rewards) for sign in (1, -1))
        lines.append(f"{above:,} to train on are wanted, with a reward above 0, {below:,} unwanted")
    if skipped := train.skipped + valid.skipped:
        lines.append(f"{skipped:,} have nothing to learn and are left out")
    if long := [size for size in train.sizes if size > length + 1]:
        if kind.form is None:
            rest = sum(long) - len(long) * length
            lines.append(
                f"{len(long):,} are longer than {length} tokens and are cut: {rest:,} tokens of "
                "them begin rows of their own"
            )
        else:
            lines.append(f"{len(long):,} are longer than {length + 1} tokens and are left out")
    return "\n".join(lines)


def as_yaml(keys: Mapping[str, Any]) -> str:
    """Write keys as the YAML of a run."""
    plain = json.loads(json.dumps(keys, default=str))
    return str(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=100)).rstrip()


def of_the_run(run: FittedRun, watch: Watch) -> str:
    """Say how it went, and how to go on."""
    folder, best = run.folder, watch.best
    assert folder is not None
    lines = [] if run.finished else [stopped(run, watch)]
    if best is not None:
        lowest, count = significant(watch.losses[best], 4), len(watch.losses)
        before = "" if watch.start is None else f"was {significant(watch.start, 4)} before and "
        lines.append(
            f"the loss on what is held out {before}is {lowest} at step {best}, the best of "
            f"{counted(count, 'evaluation')}"
        )
    newest = run.step
    model = str(folder) if best in (None, newest) else str(folder / f"step_{best}")
    lines += [
        "",
        "Next: " + (command("chat", model) if has_template(folder) else command("generate", model)),
        "      " + command("serve", model),
        "      " + command("evaluate", model, "--tasks", "arc_easy"),
        "      " + command("convert", *exported(run, model)),
    ]
    return "\n".join(lines)


def has_template(folder: Path) -> bool:
    """Tell whether the tokenizer of a run has a chat template, without which nothing converses."""
    tokenizer = folder / "tokenizer"
    if not tokenizer.is_dir():
        return False
    return template_of(load_tokenizer(tokenizer).companions.files, tokenizer) is not None


def stopped(run: FittedRun, watch: Watch) -> str:
    """Say why a run has ended before its last step."""
    at = f"stopped at step {run.step} of {run.config.train.train_iters}"
    if watch.out_of_patience:
        return f"{at}, as --stop-early {watch.patience} asks"
    return f"{at}; the same command goes on"


def exported(run: FittedRun, model: str) -> list[str]:
    """Return the words of the conversion that suits a run."""
    if run.config.model.lora is not None:
        return ["to-peft", model, f"{model}-peft"]
    return ["to-hf", model, f"{model}-hf"]
