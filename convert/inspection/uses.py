"""What can be done with a checkpoint: this project's commands, and why one of them cannot."""

from collections.abc import Callable
from shlex import quote

from convert.hf.choice import choose
from convert.inspection.facts import Use
from convert.megatron.export import Layout as MegatronLayout
from convert.megatron.export import refuse_layout as refuse_megatron_layout
from convert.split import Layout, refuse_layout
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError

RUN = "python -m convert"


def of_run(run: str, model: ModelConfig | None, after: str | None = None) -> list[Use]:
    """What is done with a checkpoint of ours; `after` names the command that makes it one. Without
    a model nothing is known to stand against it."""
    where = quote(run)
    return [
        Use(f"jaxneox.load({run!r})", "the model, in Python", after=after),
        _exported(f"{RUN}.to_hf {where} OUT", "for transformers", after, model, choose),
        _exported(f"{RUN}.to_neox {where} OUT --mp 1", "for GPT-NeoX, at any mp and pp", after,
                  model, refuse_neox),
        _exported(f"{RUN}.to_megatron {where} OUT --tp 1 --pp 1", "for Megatron-LM", after,
                  model, refuse_megatron),
    ]  # fmt: skip


def after_conversion(command: str, model: ModelConfig | None = None) -> list[Use]:
    """What is done with the DST of a conversion."""
    train = "python train.py DST --finetune --save DIR"
    return [
        Use(train, "trains on, from the weights", after=command),
        *of_run("DST", model, command),
    ]


def verified(path: str, options: str = "") -> Use:
    return Use(f"{RUN}.verify {quote(path)} OTHER{options}", "whether the two compute the same")


def refused(command: str, what: str, reason: str) -> Use:
    return Use(command, what, False, reason)


def refuse_megatron(model: ModelConfig) -> None:
    refuse_megatron_layout(model, MegatronLayout(1, 1, 1, "torch"))


def refuse_neox(model: ModelConfig) -> None:
    refuse_layout(model, Layout(1, 1, False))


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
