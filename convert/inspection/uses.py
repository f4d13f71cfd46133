"""The uses of a checkpoint: this project's commands, and reasons why one cannot be used."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from convert.hf.choice import choose
from convert.inspection.facts import Use
from convert.megatron import grid as megatron_grid
from convert.megatron.grid import MegatronGrid
from convert.neox import grid as neox_grid
from convert.neox.grid import NeoxGrid
from convert.ours.next_command import train_on
from convert.ours.training_placeholders import TRAINING
from jaxneox.config.schema import ModelConfig
from jaxneox.console.hints import command
from jaxneox.errors import UserError


def of_run(run: str, model: ModelConfig | None, after: str | None = None) -> list[Use]:
    """List the uses of a jaxneox checkpoint.

    Without a model, nothing is known to prevent any of them. `after` names the command that makes
    the checkpoint one of ours.
    """
    to_hf = command("convert", "to-hf", run, "OUT")
    to_neox = command("convert", "to-neox", run, "OUT", "--mp", "1")
    to_megatron = command("convert", "to-megatron", run, "OUT", "--tp", "1", "--pp", "1")
    return [
        Use(f"jaxneox.load({run!r})", "the model, in Python", after=after),
        _exported(to_hf, "for transformers", after, model, choose),
        _exported(to_neox, "for GPT-NeoX, at any mp and pp", after, model, refuse_neox),
        _exported(to_megatron, "for Megatron-LM", after, model, refuse_megatron),
    ]


def of_adapter(run: str, whole: ModelConfig) -> list[Use]:
    """List the uses of an adapter of ours; `whole` is the model beside which it stands."""
    to_peft = command("convert", "to-peft", run, "OUT")
    merge = command("convert", "merge-adapter", run, "OUT")
    return [
        Use(f"jaxneox.load({run!r})", "the model with its adapter, in Python"),
        _exported(to_peft, "for PEFT", None, replace(whole, shared_norm=False), choose),
        Use(merge, "one model of the adapter and its base"),
    ]


def after_conversion(
    conversion: str,
    model: ModelConfig | None = None,
    keys: Mapping[str, Any] | None = None,
    *,
    tokenizer: bool = True,
) -> list[Use]:
    """List the uses of a conversion's DST, given its configuration and tokenizer."""
    train = train_on("DST", keys or TRAINING, tokenizer=tokenizer)
    return [
        Use(train, "trains further, from the weights", after=conversion),
        *of_run("DST", model, conversion),
    ]


def verified(path: str, options: str = "") -> Use:
    return Use(command("verify", path, "OTHER") + options, "whether the two compute the same")


def refused(command: str, what: str, reason: str) -> Use:
    return Use(command, what, False, reason)


def refuse_megatron(model: ModelConfig) -> None:
    megatron_grid.refuse_grid(model, MegatronGrid(1, 1, 1, "torch"))


def refuse_neox(model: ModelConfig) -> None:
    stages = 0 if model.head == "reward" else 1
    neox_grid.refuse_grid(model, NeoxGrid(1, stages, False))


def _exported(
    command: str,
    what: str,
    after: str | None,
    model: ModelConfig | None,
    check: Callable[[ModelConfig], object],
) -> Use:
    try:
        if model is not None:
            check(model)
    except UserError as error:
        return Use(command, what, False, str(error), after)
    return Use(command, what, after=after)
