"""The training command from keys to the last line that it prints."""

import argparse
import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax

from jaxneox import checkpoint
from jaxneox.config import Settings
from jaxneox.config.batch import GLOBAL, LARGEST_MICRO, MICRO, uncut
from jaxneox.config.schema import CheckpointConfig, Config
from jaxneox.console.say import say, tell
from jaxneox.console.waiting import waiting
from jaxneox.data import Tokenizer, TokensFile, open_tokenizer
from jaxneox.data.elsewhere import ANY_TOKEN, absent_data, without_tokenizer
from jaxneox.data.epoch_steps import with_steps
from jaxneox.data.tokens_file import read_tokens_shape
from jaxneox.errors import UserError
from jaxneox.hosts import messages
from jaxneox.loading import locate
from jaxneox.parallel.compilation import use_compilation_cache
from jaxneox.parallel.mesh import Sizes, on_torus, replicas
from jaxneox.train.checkpoints.lock import locked
from jaxneox.train.checkpoints.schedule import with_saved_schedule
from jaxneox.train.dry_run.program import dry_run
from jaxneox.train.loop.loop import train
from jaxneox.train.loop.replicas import Replicas
from jaxneox.train.out_of_memory import is_out_of_memory, out_of_memory
from jaxneox.train.plan import TrainPlan, build_plan
from jaxneox.train.reporting import learning_rate, summary
from jaxneox.train.reporting.plot import plot_loss
from jaxneox.train.reporting.sample import sample
from jaxneox.train.run import Run, start

DEFAULT_RUN = Path("runs/stdlib")
DEFAULT_SAMPLE = 400


def run(args: argparse.Namespace, settings: Settings, sizes: Sizes) -> int:
    by_default = not args.paths
    if by_default and "save" not in settings.keys:
        iters = settings.train_iters
        unused = messages.broadcast(lambda: str(unfinished(DEFAULT_RUN, iters)))
        settings = Settings(settings.keys | {"save": unused})
    if args.tokens:
        settings = fit_to_tokens(settings, args.tokens)
    use_compilation_cache()
    if args.dry_run:
        dry_run(plan_without_files(settings, sizes))
        return 0
    tokenizer = tokenizer_for(settings)
    plan = plan_with(tokenizer, settings, sizes)
    cfg = plan.cfg
    summary.greet(plan, tokenizer.notes if tokenizer else ())
    samples = args.sample if args.sample is not None else DEFAULT_SAMPLE * by_default
    with locked(Path(cfg.checkpoint.save) if cfg.checkpoint.save else None), fitting(plan):
        given = partial(tokens_file, cfg, args.tokens) if args.tokens else None
        run = start(plan, tokenizer, given=given, allow_data_change=args.allow_data_change)
        if args.check_replicas:
            run.replicas = Replicas(run.mesh, run.state, run.step, args.check_replicas)
        return work(run, samples, by_default)


def plan_with(tokenizer: Tokenizer | None, settings: Settings, sizes: Sizes) -> TrainPlan:
    """Plan a run whose tokenizer is this one."""
    settings = with_saved_schedule(with_steps(settings, replicas(sizes), tokenizer))
    cfg = settings.resolve(replicas(sizes), tokenizer.vocab_size if tokenizer else None)
    check_folders(cfg.checkpoint)
    return build_plan(cfg, on_torus(sizes, jax.devices()), tokenizer.eod if tokenizer else None)


def tokens_file(cfg: Config, path: str) -> TokensFile:
    """Open a file of batches that are trained on instead of the configured data."""
    return TokensFile(
        path,
        global_batch=cfg.batch.global_size,
        seq_length=cfg.model.seq_length,
        vocab_size=cfg.model.vocab_size,
    )


@contextlib.contextmanager
def fitting(plan: TrainPlan) -> Iterator[None]:
    """Turn the end of memory into one line that says what would fit."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(plan, error) from error


def work(run: Run, samples: int, by_default: bool) -> int:
    if run.step >= run.last:
        say(summary.already_done(run))
        return 0
    if run.step:
        say(summary.continuing(run))
    check_learning_rate(run)
    finished = train(run)
    if finished and samples and run.tokenizer is not None:
        with waiting("writing a sample of text"):
            text = sample(run, run.tokenizer, samples, "def ", 0.7)
        say(f"\nThe model writes:\n{summary.indented(text)}")
    if run.folder is not None and messages.is_first():
        plot_loss(run.folder / "metrics.jsonl", run.folder / "loss.png")
    say(f"\n{summary.finished(run, by_default) if finished else summary.stopped_early(run)}")
    return 0


def check_learning_rate(run: Run) -> None:
    """Refuse a schedule that would learn nothing, and print what it may hide."""
    # the schedule counts updates, not steps; no operation of jax's is started, which would wait for
    # parameters that are still being drawn
    skipped = int(run.state.skipped)
    cfg, first, last = run.cfg.schedule, run.step - skipped, run.last - skipped
    learning_rate.check(cfg, first, last)
    for note in () if run.quiet else learning_rate.notes(cfg, run.schedule_before, first, last):
        say(f"note: {note}")


def unfinished(folder: Path, train_iters: int) -> Path:
    """Return the first of folder, folder-2, … that does not hold a finished run."""
    number, candidate = 1, folder
    while (done := checkpoint.steps(candidate)) and done[-1] >= train_iters:
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def fit_to_tokens(settings: Settings, path: str) -> Settings:
    """Take the global batch from a file of tokens, cut into micro-batches as the keys ask."""
    kind = settings.objective.kind
    if kind != "normal":
        raise UserError(
            f"--tokens: has tokens and weights of labels alone, and train_impl: {kind} learns from "
            "more: give batches in Python, jaxneox.fit(keys, lambda step: …), with the fields that "
            "`jaxneox data batch` writes"
        )
    if settings["train_epochs"] is not None:
        raise UserError("--tokens: has batches and no epochs: set train_iters, not train_epochs")
    _, batch, _ = read_tokens_shape(path)
    keys = uncut(settings.keys) | {GLOBAL: batch}
    micro = settings[MICRO]
    return Settings(keys | ({LARGEST_MICRO: micro} if micro else {}))


def tokenizer_for(settings: Settings) -> Tokenizer | None:
    """Open the YAML's tokenizer, else the one in the run that is continued or loaded.

    It is None only if the padded vocabulary is given and the tokenizer's file is not there.
    """
    try:
        return open_runs_tokenizer(settings)
    except UserError:
        if settings.tokenizer.padded_size is None or settings.tokenizer.eod_token is not None:
            raise
        return None


def open_runs_tokenizer(settings: Settings) -> Tokenizer:
    folders = [Path(settings[name]) for name in ("save", "load") if settings[name]]
    if settings["lora.base"]:
        folders.append(locate(settings["lora.base"]).folder)
    return open_tokenizer(
        settings.tokenizer, [run for path in folders for run in (path, path.parent)]
    )


def plan_without_files(settings: Settings, sizes: Sizes) -> TrainPlan:
    """Plan a run for a dry run; note a tokenizer and data that are not here."""
    notes: list[str] = []
    vocab_size: int | None
    eod: int | None
    tokenizer: Tokenizer | None = None
    try:
        tokenizer = open_runs_tokenizer(settings)
        vocab_size, eod = tokenizer.vocab_size, tokenizer.eod
    except UserError as error:
        eod = ANY_TOKEN
        vocab_size, note = without_tokenizer(settings.tokenizer, error)
        notes.append(note)
    if settings["train_iters"] is None and settings["train_epochs"] is not None:
        for absent in absent_data(settings.data):
            raise UserError(f"{absent} to count the steps of train_epochs: set train_iters too")
        settings = with_steps(settings, replicas(sizes), tokenizer)
    cfg = settings.resolve(replicas(sizes), vocab_size)
    check_folders(cfg.checkpoint)
    for note in [*notes, *absent_data(cfg.data)]:
        tell(f"note: {note}")
    return build_plan(cfg, on_torus(sizes, jax.devices()), eod)


def check_folders(cfg: CheckpointConfig) -> None:
    """Refuse to read or write a run in what is no folder of this host."""
    for folder in (cfg.save, cfg.load):
        if folder:
            checkpoint.on_disk(folder)
