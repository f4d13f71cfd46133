"""The training command from keys to the last word on the terminal."""

import argparse
import math
from pathlib import Path

import jax

from jaxneox import checkpoint
from jaxneox.config import Settings
from jaxneox.console.hints import command
from jaxneox.data import Tokenizer, TokensFile, open_tokenizer
from jaxneox.data.tokens_file import read_tokens_shape
from jaxneox.errors import UserError
from jaxneox.hosts import talk
from jaxneox.parallel.compilation import use_compilation_cache
from jaxneox.parallel.mesh import Sizes, show
from jaxneox.train import rates
from jaxneox.train.lock import locked
from jaxneox.train.loop import train
from jaxneox.train.plot import plot_loss
from jaxneox.train.program import dry_run
from jaxneox.train.replicas import Replicas
from jaxneox.train.run import Plan, Run, build_plan, start
from jaxneox.train.sample import sample

DEFAULT_RUN = Path("runs/stdlib")
DEFAULT_SAMPLE = 400
LARGE_BUBBLE = 0.2  # worth a note


def run(args: argparse.Namespace, settings: Settings, sizes: Sizes) -> int:
    by_default = not args.paths
    if by_default and "save" not in settings.keys:
        iters = settings.train_iters
        unused = talk.told(lambda: str(unfinished(DEFAULT_RUN, iters)))
        settings = Settings(settings.keys | {"save": unused})
    if args.tokens:
        settings = fit_to_tokens(settings, args.tokens)
    use_compilation_cache()
    tokenizer = tokenizer_for(settings)
    cfg = settings.resolve(sizes["dp"], tokenizer.vocab_size if tokenizer else None)
    for folder in (cfg.checkpoint.save, cfg.checkpoint.load):
        if folder:
            checkpoint.on_disk(folder)
    plan = build_plan(cfg, sizes, tokenizer.eod if tokenizer else None)
    if args.dry_run:
        dry_run(plan)
        return 0
    greet(plan, tokenizer.notes if tokenizer else ())
    samples = args.sample if args.sample is not None else DEFAULT_SAMPLE * by_default
    with locked(Path(cfg.checkpoint.save) if cfg.checkpoint.save else None):
        run = start(plan, tokenizer, tokens=args.tokens, allow_data_change=args.allow_data_change)
        if args.check_replicas:
            run.replicas = Replicas(run.mesh, run.state, run.step, args.check_replicas)
        return work(run, samples, by_default)


def work(run: Run, samples: int, by_default: bool) -> int:
    if run.step >= run.last:
        print(nothing_to_do(run))
        return 0
    if run.step:
        print(f"continuing at step {run.step} of {run.last}")
    look_at_rates(run)
    finished = train(run)
    if finished and samples and run.tokenizer is not None:
        print("\nThe model writes:\n" + indented(sample(run, run.tokenizer, samples, "def ", 0.7)))
    if run.folder is not None and talk.is_first():
        plot_loss(run.folder / "metrics.jsonl", run.folder / "loss.png")
    print(f"\n{say_where(run, by_default) if finished else say_stopped(run)}")
    return 0


def look_at_rates(run: Run) -> None:
    """Raises UserError where nothing would be learned; notes what the schedule may hide."""
    cfg, skipped = run.cfg.schedule, int(run.state.skipped)
    first, last = run.step - skipped, run.last - skipped  # the schedule counts updates
    rates.check(cfg, first, last)
    for note in rates.notes(cfg, run.schedule_before, first, last):
        print(f"note: {note}")


def nothing_to_do(run: Run) -> str:
    state = f"nothing to do: {run.folder or 'the run'} is at step {run.step}"
    if run.step < run.cfg.train.train_iters:
        return f"{state}, the last one of the --tokens file. Give further batches, or none"
    longer = further(run, run.folder or Path("RUN"), 2 * run.step)
    return f"{state}, and {run.last} were asked for. Train on: {longer}; or anew, with --save DIR"


def unfinished(folder: Path, train_iters: int) -> Path:
    """The first of folder, folder-2, … that does not hold a finished run."""
    number, candidate = 1, folder
    while (done := checkpoint.steps(candidate)) and done[-1] >= train_iters:
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def fit_to_tokens(settings: Settings, path: str) -> Settings:
    """The file's global batch instead of the configured one, cut as the devices bear it."""
    keys = settings.keys
    _, batch, _ = read_tokens_shape(path)
    cut = ("train_micro_batch_size_per_gpu", "batch_size", "gradient_accumulation_steps", "gas")
    micro = keys.get(cut[0]) or keys.get(cut[1])
    kept = {name: value for name, value in keys.items() if name not in cut}
    kept["train_batch_size"] = batch
    return Settings(kept | ({"max_micro_batch_size": micro} if micro else {}))


def tokenizer_for(settings: Settings) -> Tokenizer | None:
    """As the YAML says, else the one that lies in the run which is continued or loaded.

    None only where the padded vocabulary is given and the tokenizer's file is not there.
    """
    cfg = settings.tokenizer
    folders = [Path(settings[name]) for name in ("save", "load") if settings[name]]
    try:
        return open_tokenizer(cfg, [run for path in folders for run in (path, path.parent)])
    except UserError:
        if cfg.padded_size is None or cfg.eod_token is not None:
            raise
        return None


def greet(plan: Plan, more: tuple[str, ...] = ()) -> None:
    cfg, batch, devices = plan.cfg, plan.cfg.batch, jax.devices()
    virtual = " virtual" if devices[0].platform == "cpu" and len(devices) > 1 else ""
    print(f"{plan.parameters:,} parameters, {cfg.precision.compute}, on{virtual} "
          f"{devices[0].device_kind} devices, mesh {show(plan.sizes)}")  # fmt: skip
    if virtual:
        print(f"this machine has one CPU device: {len(devices)} virtual ones share its cores")
    print(f"{batch.global_size} sequences of {cfg.model.seq_length} tokens a step = "
          f"{batch.micro} x {batch.accumulation} accumulated x dp {plan.sizes['dp']}")  # fmt: skip
    print(rates.in_words(cfg.schedule, cfg.train.train_iters))
    if plan.schedule is not None:
        print(f"pipeline: {plan.schedule}")
    if plan.sizes["cp"] > 1:
        print(f"attention over cp: {'a ring' if plan.rules.ring else 'gathered keys and values'}")
    notes = cfg.notes + tuple(f"the tokenizer: {note}" for note in more)
    if cfg.checkpoint.save is None:
        notes += ("nothing will be saved: name a folder with --save DIR",)
    notes += pipeline_notes(plan)
    used = math.prod(plan.sizes.values())
    if used < len(devices):
        notes += (f"{used} of {len(devices)} devices are used; --mesh dp=-1,… takes all",)
    for note in notes:
        print(f"note: {note}")


def pipeline_notes(plan: Plan) -> tuple[str, ...]:
    """What another number of micro-batches would spare."""
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


def say_stopped(run: Run) -> str:
    stopped = f"stopped at step {run.step} of {run.last}"
    if run.folder is None:
        return f"{stopped}; nothing was saved, for want of --save DIR"
    saved = checkpoint.steps(run.folder)
    if run.step in saved:
        return f"{stopped}, saved in {run.folder}; the same command continues"
    newest = f"step {saved[-1]}" if saved else "the start"
    return f"{stopped}, amid skipped steps: not saved. The same command continues from {newest}"


def say_where(run: Run, by_default: bool) -> str:
    folder = run.folder
    if folder is None:
        return f"step {run.step} is done; nothing was saved, for want of --save DIR"
    saved = (
        f"{folder}/step_{run.step}   the checkpoint: jaxneox.load({str(folder)!r})\n"
        f"{folder}/loss.png   the loss curve, from metrics.jsonl\n"
        f"{folder}/config.yml   the configuration\n"
    )
    if not by_default:
        return saved + f"Next: {further(run, folder, 2 * run.last)}"
    eight = command("train", "--mesh", "dp=2,tp=4")
    own = command("train", "stdlib", "--set", "data-path=YOUR.txt", "--save", "runs/mine")
    return saved + f"Next: {eight}   (the same run on eight virtual devices)\n      {own}"


def further(run: Run, folder: Path, last: int) -> str:
    """The command that trains on until a later step, and what there is to know of it."""
    length = ("--set", f"train-iters={last}")
    if isinstance(run.loader, TokensFile):
        return f"{command('train', folder, '--tokens', 'FILE.npz', *length)}   (further batches)"
    end = run.loader.fingerprint().get("wraps_at")
    if end is None or last * run.cfg.batch.global_size <= end:
        return f"{command('train', folder, *length)}   (go on)"
    again = command("train", folder, *length, "--allow-data-change")
    return f"{again}   (go on: the data comes again, in another order)"


def indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())
