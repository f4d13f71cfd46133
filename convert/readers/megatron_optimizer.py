"""Megatron-LM's Adam states, each read as if it were the model: by the same names and layouts."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from convert.fate import differ
from convert.megatron.consistency import check_tensors
from convert.readers.megatron import MegatronCheckpoint
from convert.readers.megatron_states import Scaler, States, dist_states, legacy_states
from convert.rules.megatron import rules
from jaxneox.errors import UserError


@dataclass(frozen=True)
class MegatronOptimizer:
    """The state of Megatron-LM's Adam.

    Attributes:
        step: the number of Adam's updates.
        groups: Megatron's settings of each parameter group: lr, betas, eps, weight_decay,
            wd_mult, …
        kinds: by `param` (the master weights), `exp_avg` and `exp_avg_sq`, a checkpoint whose
            `leaf(name, layer)` has that quantity of our leaf.
        schedule: the saved state of Megatron's `opt_param_scheduler`; empty if there is none.
        scaler: the dynamic loss scale, if there is one.
    """

    step: int
    groups: list[dict[str, Any]]
    kinds: Mapping[str, MegatronCheckpoint]
    schedule: Mapping[str, Any] = field(default_factory=dict)
    scaler: Scaler | None = None


def open_optimizer(checkpoint: MegatronCheckpoint) -> MegatronOptimizer:
    """Open the optimizer's state.

    Raises:
        UserError: there is none, or its states are not those of the weights.
    """
    try:
        if checkpoint.shards.files.format == "torch":
            states = legacy_states(checkpoint.shards)
        else:
            states = dist_states(checkpoint.shards, checkpoint.model, _fits(checkpoint))
        views = _views(checkpoint, states)
        for kind, view in views.items():
            _check(kind, view)
        if "param" not in states.layers and checkpoint.keys["precision"] != "fp32":
            raise UserError("the weights are in half precision, and there are no master weights")
        if not same_masters(checkpoint, views["param"]):
            raise UserError("the master weights do not round to the weights")
    except UserError as error:
        raise UserError(
            f"{checkpoint.folder}: its optimizer's states cannot be taken over ({error}); convert "
            "the weights alone"
        ) from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{checkpoint.folder}: its optimizer's states are not those of Megatron-LM's Adam "
            f"({type(error).__name__}: {str(error)[:100]}); convert the weights alone"
        ) from error
    return MegatronOptimizer(states.step, states.groups, views, states.schedule, states.scaler)


def _views(checkpoint: MegatronCheckpoint, states: States) -> dict[str, MegatronCheckpoint]:
    """Return a checkpoint of each kind; weights in float32 are their own master weights."""
    views = {kind: _view(checkpoint, states, kind) for kind in states.layers}
    return {"param": checkpoint} | views


def _view(checkpoint: MegatronCheckpoint, states: States, kind: str) -> MegatronCheckpoint:
    """Return the same model with other numbers; 1 is never added to moments of norms."""
    view = copy(checkpoint)
    view.shards = replace(checkpoint.shards, layers=states.layers[kind])
    if kind != "param":
        view.reading = checkpoint.reading._replace(zero_centered=False)
    return view


def _check(kind: str, view: MegatronCheckpoint) -> None:
    try:
        check_tensors(view.shards, view.model)
    except UserError as error:
        raise UserError(f"{kind}: {str(error).removeprefix(f'{view.folder}: ')}") from error


def _fits(checkpoint: MegatronCheckpoint) -> Callable[[States], bool]:
    def fits(states: States) -> bool:
        return same_masters(checkpoint, _view(checkpoint, states, "param"))

    return fits


def same_masters(checkpoint: MegatronCheckpoint, masters: MegatronCheckpoint) -> bool:
    """Tell whether each weight is its master weight, rounded.

    This is the only test of the order of parameters, because many of them have the same shape.
    """
    as_stored = [copy(checkpoint), copy(masters)]
    for one in as_stored:
        one.reading = one.reading._replace(zero_centered=False)
    weights, others = as_stored
    return not any(
        differ([others.leaf(name, layer).astype(weights.dtype(name)), weights.leaf(name, layer)])
        for inside in (False, True)
        for rule in rules(checkpoint.model, inside=inside)
        for name in rule.leaves
        for layer in (range(checkpoint.model.num_layers) if inside else [None])
    )
