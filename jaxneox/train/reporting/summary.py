"""What the training command prints before its steps and after them."""

import math
from pathlib import Path

import jax

from jaxneox import checkpoint
from jaxneox.console.hints import command
from jaxneox.console.say import say
from jaxneox.data import TokensFile
from jaxneox.data.neox import PACKED
from jaxneox.parallel.mesh import replicas, show
from jaxneox.train.plan import TrainPlan
from jaxneox.train.reporting import learning_rate
from jaxneox.train.run import Run

LARGE_BUBBLE = 0.2
"""The share of idle ticks in a pipeline from which on a note is printed."""


def greet(plan: TrainPlan, tokenizer_notes: tuple[str, ...] = ()) -> None:
    """Print what is about to be trained, on which devices, and all notes."""
    cfg, batch, devices = plan.cfg, plan.cfg.batch, jax.devices()
    virtual = " virtual" if devices[0].platform == "cpu" and len(devices) > 1 else ""
    part = f" ({plan.trained_parameters:,} trained)" * (plan.trained_parameters < plan.parameters)
    say(f"{plan.parameters:,} parameters{part}, {cfg.precision.compute}, on{virtual} "
          f"{devices[0].device_kind} devices, mesh {show(plan.sizes)}")  # fmt: skip
    if virtual:
        say(f"this machine has one CPU device: {len(devices)} virtual ones share its cores")
    examples = "sequences of" if plan.texts == 1 else f"pairs of {plan.texts} x"
    shares = replicas(plan.sizes)
    say(f"{batch.global_size} {examples} {cfg.model.seq_length} tokens a step = "
          f"{batch.micro} x {batch.accumulation} accumulated x dp {shares}")  # fmt: skip
    say(learning_rate.in_words(cfg.schedule, cfg.train.train_iters))
    if plan.schedule is not None:
        say(f"pipeline: {plan.schedule}")
    if plan.sizes["cp"] > 1:
        say(f"attention over cp: {'a ring' if plan.rules.ring else 'gathered keys and values'}")
    notes = cfg.notes + tuple(f"the tokenizer: {note}" for note in tokenizer_notes)
    if cfg.checkpoint.save is None:
        notes += ("nothing will be saved: name a folder with --save DIR, or the key `save`",)
    notes += pipeline_notes(plan)
    rows, tp = cfg.model.vocab_size, plan.sizes["tp"]
    if rows % tp:
        notes += (
            f"the vocabulary of {rows} is padded to {rows + -rows % tp} for tp={tp}, in memory "
            "alone: checkpoints and losses do not know of it",
        )
    used = math.prod(plan.sizes.values())
    if used < len(devices):
        notes += (f"{used} of {len(devices)} devices are used; --mesh dp=-1,… takes all",)
    for note in notes:
        say(f"note: {note}")


def pipeline_notes(plan: TrainPlan) -> tuple[str, ...]:
    """Note what another number of micro-batches would spare."""
    schedule = plan.schedule
    if schedule is None:
        return ()
    notes: tuple[str, ...] = ()
    if schedule.micro % schedule.stages:
        notes += (
            f"pp={schedule.stages} does not divide the {schedule.micro} micro-batches: every stage "
            "computes the embedding and the loss of all of them",
        )
    if schedule.bubble > LARGE_BUBBLE:
        enough = math.gcd(plan.cfg.batch.micro * schedule.micro, 4 * schedule.stages)
        if enough > schedule.micro:
            notes += (
                f"the stages idle in {schedule.bubble:.0%} of their ticks; smaller micro-batches "
                f"make it fewer: --set gradient-accumulation-steps={enough}",
            )
    return notes


def continuing(run: Run) -> str:
    """Say where the run goes on."""
    return f"continuing at step {run.step} of {run.last}"


def already_done(run: Run) -> str:
    """Say that the run has no step left, and how to train on."""
    state = f"nothing to do: {run.folder or 'the run'} is at step {run.step}"
    if run.step < run.cfg.train.train_iters:
        return f"{state}, the last one of the --tokens file. Give more batches, or none"
    longer = next_command(run, run.folder or Path("RUN"), 2 * run.step)
    return f"{state}, and {run.last} were asked for. Train on: {longer}; or anew, with --save DIR"


def stopped_early(run: Run) -> str:
    """Say where an interrupted run stopped, and how to go on."""
    stopped = f"stopped at step {run.step} of {run.last}"
    if run.folder is None:
        return f"{stopped}; nothing was saved, for want of --save DIR"
    saved = checkpoint.steps(run.folder)
    if run.step in saved:
        return f"{stopped}, saved in {run.folder}; the same command continues"
    newest = f"step {saved[-1]}" if saved else "the start"
    return f"{stopped}, amid skipped steps: not saved. The same command continues from {newest}"


def finished(run: Run, by_default: bool) -> str:
    """Say where a finished run is, and what to do next."""
    folder = run.folder
    if folder is None:
        return f"step {run.step} is done; nothing was saved, for want of --save DIR"
    saved = (
        f"{folder}/step_{run.step}   the checkpoint: jaxneox.load({str(folder)!r})\n"
        f"{folder}/loss.png   the loss curve, from metrics.jsonl\n"
        f"{folder}/config.yml   the configuration\n"
    )
    if not by_default:
        return saved + f"Next: {next_command(run, folder, 2 * run.last)}"
    eight = command("train", "--mesh", "dp=2,tp=4")
    own = command("train", "stdlib", "--set", "data-path=YOUR.txt", "--save", "runs/mine")
    return saved + f"Next: {eight}   (the same run on eight virtual devices)\n      {own}"


def next_command(run: Run, folder: Path, last: int) -> str:
    """Return the command that trains on until a later step, with what its user should know."""
    length = ("--set", f"train-iters={last}")
    if isinstance(run.loader, TokensFile):
        return f"{command('train', folder, '--tokens', 'FILE.npz', *length)}   (more batches)"
    data = run.loader.fingerprint()
    epochs = run.cfg.keys.get("train_epochs")
    if epochs is not None:
        return f"{command('train', folder, '--set', f'train-epochs={2 * epochs}')}   (go on)"
    fits = last * run.cfg.batch.global_size <= data["wraps_at"]
    if fits and data["samples"]["order"] == PACKED:  # as many passes, in the same order
        return f"{command('train', folder, *length)}   (go on)"
    again = command("train", folder, *length, "--allow-data-change")
    return f"{again}   (go on: the data of a longer run is in another order)"


def indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())
