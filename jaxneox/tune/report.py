"""What the command prints of its data before, and what to do with the model after."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from jaxneox.console.hints import command
from jaxneox.console.units import significant
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
    if skipped := train.skipped + valid.skipped:
        lines.append(f"{skipped:,} have nothing to learn and are left out")
    long = [size for size in train.sizes if size > length + 1]
    if long:
        rest = sum(long) - len(long) * length
        lines.append(
            f"{len(long):,} are longer than {length} tokens and are cut: {rest:,} tokens of them "
            "begin rows of their own"
        )
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
        at, first = next(iter(watch.losses.items()))
        lowest, count = watch.losses[best], len(watch.losses)
        lines.append(
            f"the loss on what is held out was {significant(first, 4)} at step {at} and "
            f"{significant(lowest, 4)} at step {best}, the best of {count} evaluations"
        )
    newest = run.step
    model = str(folder) if best in (None, newest) else str(folder / f"step_{best}")
    lines += [
        "",
        "Next: " + command("chat", model),
        "      " + command("serve", model),
        "      " + command("evaluate", model, "--tasks", "arc_easy"),
        "      " + command("convert", *exported(run, model)),
    ]
    return "\n".join(lines)


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
