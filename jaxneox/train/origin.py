"""Where a run starts from: a checkpoint and what is taken from it, and whether it fits."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxneox import checkpoint
from jaxneox.checkpoint import Place
from jaxneox.config import model_of
from jaxneox.config.schema import CheckpointConfig, ModelConfig
from jaxneox.data import Loader
from jaxneox.errors import UserError

# What may change between two runs of one model: its function of a sequence is the same.
FREE = {"seq_length", "init", "hidden_dropout", "attention.dropout", "attention.softmax_fp32"}


class Origin(NamedTuple):
    """The checkpoint that a run starts from, and whether only its weights are taken."""

    place: Place
    weights_only: bool


def origin(c: CheckpointConfig) -> Origin | None:
    """The newest checkpoint of the run that saves here, else the one to load, else none.

    NeoX's YAMLs name one folder in `save` and `load`: it may be empty at the first start. Raises
    UserError where the run would go on from an older step of its own and write over the newer.
    """
    home = checkpoint.run_of(c.save) if c.save else None
    known = checkpoint.steps(home) if home else []
    inside = home is not None and home == (checkpoint.run_of(c.load) if c.load else home)
    if known and not inside:
        return Origin(checkpoint.find(str(c.save)), weights_only=False)
    if known:
        return Origin(_newest(c, known), weights_only=False)
    if c.load and not inside:
        weights_only = c.finetune or not c.load_optimizer
        return Origin(checkpoint.find(c.load, c.iteration), weights_only)
    for name, wanted in (("finetune", c.finetune), ("iteration", c.iteration)):
        if wanted:
            raise UserError(f"{name} is set, but there is no checkpoint: say where with --load DIR")
    return None


def _newest(c: CheckpointConfig, known: list[int]) -> Place:
    if c.finetune:
        raise UserError(f"finetune: {c.save} already holds a run; give another one with --save")
    place = checkpoint.find(c.load or str(c.save), c.iteration)
    if place.step != known[-1]:
        raise UserError(
            f"{c.save}: holds step {known[-1]}, which going on from step {place.step} would "
            "overwrite; give another folder with --save"
        )
    return place


def check_model(start: Origin, cfg: ModelConfig) -> None:
    """Raises UserError with every setting by which the checkpoint computes another function.

    Those that change no shape (an activation, say) would otherwise be taken in silence. Weights
    alone may be put to another use: then the changes are printed.
    """
    saved = model_of(checkpoint.read_meta(start.place)["keys"], vocab_size=None)
    differences = [
        f"{name} is {there} there and {here} here"
        for name, there, here in _changes(dataclasses.asdict(saved), dataclasses.asdict(cfg))
        if name not in FREE and not name.startswith("init.")
    ]
    if differences and not start.weights_only:
        raise UserError(
            f"{start.place.folder} is a checkpoint of another model: {'; '.join(differences)}"
        )
    for difference in differences:
        print(f"note: {start.place.folder}: {difference}")


def check_data(place: Place, loader: Loader, first: int, allowed: bool) -> int:
    """The first step of a loader that the checkpoint's run had; an error if it had another."""
    saved = checkpoint.read_meta(place).get("data")
    if saved is None:
        return first
    now = loader.fingerprint()
    if saved["fingerprint"] == now:
        return saved["first"]
    if allowed:
        return first
    changed = [
        f"{name} was {there} and is {here}"
        for name, there, here in _changes(saved["fingerprint"], now)
    ]
    raise UserError(
        f"{place.folder} was trained on other data: {'; '.join(changed)}. Restore the data and its "
        "settings, or accept the change with --allow-data-change"
    )


def _changes(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The leaves in which two nested dictionaries differ: dotted name, old and new value."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _changes(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    elif old != new:
        yield name, _short(old), _short(new)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
