"""EleutherAI's GPT-NeoX in JAX: one function on any mesh."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from typing import Any

    from jaxneox.config.optimization_schema import Dtype
    from jaxneox.data import Batches
    from jaxneox.loading import LoadedModel
    from jaxneox.objectives import Objective
    from jaxneox.objectives.own import OwnLoss
    from jaxneox.train.fit import FittedRun
    from jaxneox.train.reporting.callbacks import Callback

__version__ = "0.2.0"


def load(
    where: "str | PathLike[str]",
    *,
    step: int | None = None,
    adapter: "str | PathLike[str] | None" = None,
    mesh: str | None = None,
    compute: "Dtype" = "float32",
) -> "LoadedModel":
    """Load a checkpoint as a model: a function from tokens to logits.

    A checkpoint of another program is converted into the cache, with a certificate, and found there
    the next time; one whose files have changed is converted again.

    Args:
        where: a run of ours (its newest checkpoint, or `step`) or one step's folder; a folder of
            Hugging Face's, NeoX's or Megatron's; or a repository of the Hugging Face hub,
            `owner/name[@revision]`.
        step: which of a run's checkpoints; the newest unless given.
        adapter: a run that trained LoRA's matrices beside this model. Such a run opens alone as
            well, with the model that it remembers.
        mesh: devices by axis, as `dp=2,tp=4`; one device unless given.
        compute: float32, which is nearest to the function that the weights are, or bfloat16 or
            float16, whatever the run was trained in.

    Returns:
        A function from tokens to logits that also generates and scores text.

    Raises:
        UserError: there is no such checkpoint, it cannot be read here, or its function cannot be
            kept.
    """
    from jaxneox.loading import load_model

    beside = None if adapter is None else os.fspath(adapter)
    return load_model(os.fspath(where), step=step, mesh=mesh, compute=compute, adapter=beside)


def fit(
    config: "str | PathLike[str] | Mapping[str, Any] | Sequence[str | PathLike[str]]",
    data: "Batches | None" = None,
    *,
    settings: "Mapping[str, Any] | None" = None,
    objective: "Objective | OwnLoss | None" = None,
    callbacks: "Sequence[Callback]" = (),
    mesh: str | None = None,
    verbose: bool = True,
) -> "FittedRun":
    """Train a model, as `jaxneox train` does, and return the run.

    It saves, evaluates and goes on where it had stopped as the command does; `save` among the keys
    is the run's folder. Ctrl-C ends it after the step that is under way, and saves.

    Args:
        config: NeoX's keys as a dictionary; or YAML files or the names of shipped ones, one or
            several that are merged; or the folder of a run that goes on.
        data: batches to train on instead of the configured data. Each is a global batch: tokens,
            int [train_batch_size, seq_length + 1], or a dictionary of `tokens`, maybe `weights` of
            the labels, float [train_batch_size, seq_length], and whatever the objective asks for.
            They come from an iterable, at whose end the run ends, or from a function of the step,
            counted from 0, with which a run that resumes goes on alike, and which may end it by
            StopIteration. Up to two are read ahead. The configured data is then not evaluated
            either.
        settings: keys over those of `config`, as by `--set`; inside blocks with dots.
        objective: instead of the next token's cross-entropy, a function of one's own. It is called
            as `objective(model, params, batch)` with `model.token_losses(params, tokens)` and
            `model.logits(params, tokens)`, and returns a loss for each label or row, shaped as
            `batch["weights"]`; with a dictionary of the like beside it, these are figures. What is
            minimised is their mean by weight. Or an object like those of `jaxneox.objectives`.
        callbacks: functions that are called after every step, before the next, with the progress:
            its `step`, `figures` (as in metrics.jsonl), `params` (a copy) and `stop()`.
        mesh: devices by axis, as `dp=2,tp=4`.
        verbose: whether to print what the command prints while it trains.

    Returns:
        The run: its `figures` of every step, `params`, `model`, `folder`, `step` and `finished`.

    Raises:
        UserError: keys, data or objective cannot be used, or what the command would refuse. Errors
            of the given functions come as they are, after what was learned until then is saved.
    """
    from jaxneox.train.fit import fit

    return fit(config, data, settings or {}, objective, callbacks, mesh, verbose)


__all__ = ["fit", "load"]
