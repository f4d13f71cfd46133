"""The checkpoint that a run starts from: which it is, what is taken from it, whether it fits."""

import dataclasses
import hashlib
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from jaxneox import checkpoint
from jaxneox.base_model import META
from jaxneox.checkpoint import Damaged, Location
from jaxneox.config import Config, Settings
from jaxneox.config.schema import CheckpointConfig, ModelConfig, ScheduleConfig
from jaxneox.console.say import say, warn
from jaxneox.data import Loader
from jaxneox.errors import UserError
from jaxneox.foreign import refuse_foreign
from jaxneox.hosts import messages
from jaxneox.train.checkpoints.heads import FIELDS, changed_head

VISIBLE_WITHIN = 60.0
"""Seconds until a network file system shows at one host what another has written."""

TOKENS = "tokens file"  # the `order` in the fingerprint of a file of batches
MAX_CHANGES = 8  # of the data, listed one by one

MAY_CHANGE = {"seq_length", "init", "hidden_dropout", "attention.dropout", "attention.softmax_fp32"}
MAY_CHANGE |= {"lora.dropout"}
"""Fields that may change between two runs of one model: its function of a sequence is the same."""

LEARNED = {"positions.max_positions"}
"""Fields that may change as well, unless positions are learned."""


class ResumePoint(NamedTuple):
    """The checkpoint that a run starts from, and whether only its weights are taken."""

    location: Location
    weights_only: bool


class Base(NamedTuple):
    """The model beside which LoRA's matrices are trained, and by what name it was found."""

    location: Location
    where: str


def agreed_resume_point(c: CheckpointConfig) -> ResumePoint | None:
    """Return the `resume_point` that process 0 finds.

    Raises:
        UserError: this process does not see the same checkpoint.
    """
    if messages.count() == 1:
        return resume_point(c)

    def look() -> Any:
        start = resume_point(c)
        return start and (
            str(start.location.run),
            start.location.step,
            start.weights_only,
            _mark(start),
        )

    agreed = messages.broadcast(look)
    if agreed is None:
        return None
    start = ResumePoint(Location(Path(agreed[0]), agreed[1]), agreed[2])
    end = time.monotonic() + VISIBLE_WITHIN
    while _mark(start) != agreed[3]:
        if time.monotonic() > end:
            raise UserError(
                f"{start.location.folder}: process 0 starts from this checkpoint, and here it is "
                "not visible or another one; the run's folder must be on a file system that all "
                "hosts share, under the same path"
            )
        time.sleep(1)
    return start


def _mark(start: ResumePoint) -> str | None:
    """Return a value that tells one checkpoint from another; None if there is none."""
    try:
        content = (start.location.folder / "meta" / "metadata").read_bytes()
    except OSError:
        return None
    return hashlib.sha256(content).hexdigest()


def earlier(start: ResumePoint, damage: Damaged, c: CheckpointConfig) -> ResumePoint:
    """Return the checkpoint before a damaged one, which is renamed; all processes must call this.

    Raises:
        Damaged: there is no earlier one, or the user has named that very checkpoint or another
            run's.
    """
    home = checkpoint.run_of(c.save) if c.save else None
    named = c.iteration is not None or bool(
        c.load and checkpoint.run_of(c.load) != resolved(c.load)
    )
    before = [step for step in checkpoint.steps(start.location.run) if step < start.location.step]
    if home != start.location.run or named or not before:
        raise damage
    # the error's own advice is what is done here
    reason = str(damage).rpartition("; ")[0]
    aside = messages.broadcast(lambda: str(checkpoint.put_aside(start.location)))
    if messages.is_first():
        warn([f"{reason}; it is now {aside}, and the run goes on from step {before[-1]}"])
    return ResumePoint(Location(start.location.run, before[-1]), start.weights_only)


def resolved(path: str) -> Path:
    return Path(path).resolve()


def resume_point(c: CheckpointConfig) -> ResumePoint | None:
    """Find the newest checkpoint of the run that saves here, else the one to load, else none.

    NeoX's YAMLs name one folder in `save` and `load`: it may be empty at the first start.

    Raises:
        UserError: the run would go on from an older step of its own and write over the newer.
    """
    home = checkpoint.run_of(c.save) if c.save else None
    known = checkpoint.steps(home) if home else []
    inside = home is not None and home == (checkpoint.run_of(c.load) if c.load else home)
    if c.save and not known:
        refuse_foreign(c.save)  # a new run beside it would begin from nothing
    if known and not inside:
        return ResumePoint(checkpoint.find(str(c.save)), weights_only=False)
    if known:
        return ResumePoint(_newest(c, known), weights_only=False)
    if c.load and not inside:
        weights_only = c.finetune or not c.load_optimizer
        return ResumePoint(checkpoint.find(c.load, c.iteration), weights_only)
    for name, given in (("finetune", c.finetune), ("iteration", c.iteration)):
        if given:
            raise UserError(f"{name} is set, but there is no checkpoint: say where with --load DIR")
    return None


def _newest(c: CheckpointConfig, known: list[int]) -> Location:
    if c.finetune:
        raise UserError(f"finetune: {c.save} already holds a run; give another one with --save")
    location = checkpoint.find(c.load or str(c.save), c.iteration)
    if location.step != known[-1]:
        raise UserError(
            f"{c.save}: holds step {known[-1]}, which going on from step {location.step} would "
            "overwrite; give another folder with --save"
        )
    return location


def check_base(base: Location, cfg: ModelConfig) -> None:
    """Refuse a base that computes another function than the model beside which LoRA is configured.

    Raises:
        UserError: with every setting that differs, or because it is an adapter itself.
    """
    if META in checkpoint.read_meta(base):
        raise UserError(
            f"{base.folder}: is an adapter and no model to train another beside; make one of both "
            "with `jaxneox convert merge-adapter`"
        )
    whole = dataclasses.replace(cfg, lora=None)
    check_model(ResumePoint(base, weights_only=False), whole, new_head=True)


def check_model(start: ResumePoint, cfg: ModelConfig, new_head: bool = False) -> None:
    """Refuse a checkpoint that computes another function than the configured model.

    Settings that change no shape (an activation, say) would otherwise go unnoticed. Weights alone
    may be put to another use: then the changes are printed.

    Args:
        start: the checkpoint.
        cfg: the configured model.
        new_head: whether a language model gets a head for rewards also where training goes on.

    Raises:
        UserError: with every setting that differs.
    """
    saved = Settings(checkpoint.read_meta(start.location)["keys"]).model(vocab_size=None)
    free = MAY_CHANGE if cfg.positions.kind == "learned" else MAY_CHANGE | LEARNED
    note = None
    if start.weights_only or new_head:
        note = changed_head(start.location.folder, saved, cfg)
    free |= FIELDS if note else set()
    differences = {
        name: f"{name} is {there} there and {here} here"
        for name, there, here in _changes(dataclasses.asdict(saved), dataclasses.asdict(cfg))
        if name not in free and not name.startswith("init.")
    }
    if differences and not start.weights_only:
        raise UserError(
            f"{start.location.folder} is a checkpoint of another model: "
            f"{'; '.join(differences.values())}"
        )
    if cfg.vocab_size > saved.vocab_size:
        differences["vocab_size"] += ": each new row is the mean of those that are there"
    if note:
        say(f"note: {note}")
    for difference in differences.values():
        say(f"note: {start.location.folder}: {difference}")


def note_optimizer(start: ResumePoint, cfg: Config) -> None:
    """Note which keys of an imported training the present YAML leaves out.

    These keys change no array, and NeoX's YAML has none of them.
    """
    if start.weights_only:
        return
    keys = Settings(checkpoint.read_meta(start.location)["keys"])
    factors = ("lr_factors", "gradient_factors", "clip_leaves_out")
    for name in (*factors, "old_lr_schedule", "neox_compat"):
        here = cfg.keys.get(name)
        if keys[name] and here is None:
            say(
                f"note: {start.location.folder}: {name} is {_short(keys[name])} there and not "
                "given here, so that the run goes on with other updates; keep the keys of "
                f"{start.location.run}/config.yml"
            )


def schedule_before(start: ResumePoint | None) -> ScheduleConfig | None:
    """Return the learning rate schedule of the checkpoint whose training goes on.

    It is None for a new run, if only weights are taken, and if the checkpoint's keys describe no
    training, as those of a converted model.
    """
    if start is None or start.weights_only:
        return None
    with suppress(UserError):
        return Settings(checkpoint.read_meta(start.location)["keys"]).schedule
    return None


OF_THE_LENGTH = {"epochs", "num_samples", "size", "wraps_at"}
"""Entries of a fingerprint, of a blend's datasets too, that depend on how long the run is."""


def check_data(location: Location, loader: Loader, first: int, allowed: bool) -> int:
    """Hold the data against the checkpoint's, and start the loader where its run had stopped.

    If a change is allowed, the samples still go on where they had stopped: with batches of another
    size none is left out and none comes again. (A file of tokens has no such position.)

    Returns:
        The run's step at which the loader's first batch was due.

    Raises:
        UserError: the data is not the same, and a change is not allowed.
    """
    saved = checkpoint.read_meta(location).get("data")
    if saved is None:
        return first
    now = loader.fingerprint()
    same = saved["fingerprint"] == now
    if same or (allowed and not {saved["fingerprint"].get("order"), now.get("order")} & {TOKENS}):
        loader.sizes.follow(saved["stages"], location.step - saved["first"], changed=not same)
        return saved["first"]
    if allowed:
        return first
    changes = list(_changes(saved["fingerprint"], now))
    if {name.rpartition(".")[2] for name, _, _ in changes} <= OF_THE_LENGTH:
        raise UserError(
            f"{location.folder}: the order of this data depends on the run's length, and is "
            "another one now than in the checkpoint's run. Keep train-iters, or accept the other "
            "order with --allow-data-change"
        )
    changed = [f"{name} was {there} and is {here}" for name, there, here in changes]
    if len(changed) > MAX_CHANGES:
        changed[MAX_CHANGES:] = [f"and {len(changed) - MAX_CHANGES} more changes"]
    raise UserError(
        f"{location.folder} was trained on other data: {'; '.join(changed)}. Restore the data and "
        "its settings, or accept the change with --allow-data-change"
    )


def _changes(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Find the leaves in which two nested dictionaries differ: dotted name, old and new value."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _changes(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    elif old != new:
        yield name, _short(old), _short(new)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
