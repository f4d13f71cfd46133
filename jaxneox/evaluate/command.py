"""`jaxneox evaluate CKPT`: figures of one checkpoint, or of several side by side."""

import argparse
import gc
import hashlib
from pathlib import Path

from jaxneox.console.execute import entry_point
from jaxneox.console.outputs import check_output
from jaxneox.console.progress import progress
from jaxneox.console.say import tell
from jaxneox.console.waiting import waiting
from jaxneox.data import Tokenizer
from jaxneox.errors import UserError
from jaxneox.evaluate.arguments import parser
from jaxneox.evaluate.corpus import read
from jaxneox.evaluate.mesh import usual_mesh
from jaxneox.evaluate.perplexity import Measured, measured
from jaxneox.evaluate.report import Report, Scores, console, show, write
from jaxneox.evaluate.rewards import Rewarded
from jaxneox.evaluate.texts import RewardTexts
from jaxneox.loading import LoadedModel, load_model, locate
from jaxneox.model.losses import NO_LOGITS
from jaxneox.model.neox import NO_VALUES
from jaxneox.parallel.compilation import use_compilation_cache
from jaxneox.reading import regular_file


def run(args: argparse.Namespace) -> None:
    check(args)
    use_compilation_cache()
    if args.rewards:
        rewards(args)
        return
    reports = []
    for name in (args.checkpoint, *args.compare):
        reports.append(report(name, args))
        gc.collect()  # before the next checkpoint's weights come
    show(reports)
    if args.output:
        write(args.output, reports)


def check(args: argparse.Namespace) -> None:
    """Check what can be known before a checkpoint is loaded."""
    if args.rewards:
        check_rewards(args)
    elif not args.tasks and not args.perplexity:
        raise UserError("nothing to evaluate; expected --tasks, --perplexity or --rewards")
    check_output(args.output)
    for name in ("limit", "batch_tokens", "stride"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected 1 or more")
    for name in args.perplexity:
        if not Path(name).exists():
            raise UserError(f"{name}: no such file; --perplexity reads text, .jsonl and .npz files")
        regular_file(name)
    if args.tasks:
        from jaxneox.evaluate import tasks

        tasks.check(args.tasks, args.include_path)


def check_rewards(args: argparse.Namespace) -> None:
    """Check that rewards are asked for alone, since no other figure is one of a reward model."""
    for name in ("tasks", "perplexity", "compare"):
        if getattr(args, name):
            raise UserError(
                f"--rewards goes without --{name}: the one is of reward models, the other of "
                "language models, or of several"
            )
    regular_file(args.rewards)


def rewards(args: argparse.Namespace) -> None:
    """Print a reward model's figures of a file, and write each line's rewards if asked for."""
    model, _ = loaded(args.checkpoint, args)
    if model.config.model.head != "reward":
        raise UserError(f"{args.checkpoint}: {NO_VALUES}")
    rows = RewardTexts(model).rows(args.rewards, args.limit)
    texts = [tokens for row in rows for tokens in row.tokens]
    with progress(Path(args.rewards).name, len(texts), "texts") as advance:
        found = model.rewards(texts, on_done=advance, budget=args.batch_tokens)
    rewarded = Rewarded(args.rewards, rows, found)
    console().print(rewarded.table())
    if args.output:
        rewarded.write(args.output)


def loaded(name: str, args: argparse.Namespace) -> tuple[LoadedModel, Path]:
    """Load a checkpoint, and return its folder as well."""
    folder = locate(name, args.step).folder
    mesh = args.mesh or usual_mesh(folder)
    with waiting(f"loading {name}"):
        model = load_model(folder, step=None, mesh=mesh, compute=args.dtype, adapter=args.adapter)
    return model, folder


def report(name: str, args: argparse.Namespace) -> Report:
    model, folder = loaded(name, args)
    if model.config.model.head == "reward":
        raise UserError(f"{name}: {NO_LOGITS}")
    files = [perplexity(model, file, args) for file in args.perplexity]
    return Report(name, files, scores(model, folder, args) if args.tasks else None)


def scores(model: LoadedModel, folder: Path, args: argparse.Namespace) -> Scores:
    from jaxneox.evaluate import harness, tasks

    if model.tokenizer is None:
        raise UserError(
            f"{folder}: the checkpoint has no tokenizer, which tasks need; train or convert it "
            "with one, or give --perplexity an .npz of tokens"
        )
    adapter = harness.Adapter(
        model.tokenizer,
        model.config.model.seq_length,
        lambda requests, on_done: model.score(requests, on_done, args.batch_tokens),
        model.generate,
    )
    loaded = tasks.load(tasks.check(args.tasks, args.include_path))
    cache = cache_of(folder, model.tokenizer, args)
    result = harness.evaluate(
        adapter, loaded, limit=args.limit, num_fewshot=args.num_fewshot, cache=cache
    )
    if adapter.cut:
        room = f"{adapter.max_length:,} tokens, the model's context"
        tell(f"{adapter.cut} requests are longer than {room}: cut at the front")
    return result


def cache_of(folder: Path, tokenizer: Tokenizer, args: argparse.Namespace) -> str | None:
    """Name the cache of answers, which depend on weights, tokenizer and how they are computed."""
    if args.cache is None:
        return None
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    own = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    kind = [args.dtype, tokenizer.fingerprint(), own]
    if tokenizer.stops != {tokenizer.eod}:
        kind.append(sorted(tokenizer.stops))
    return f"{args.cache}-{hashlib.sha256(repr(kind).encode()).hexdigest()[:12]}"


def perplexity(model: LoadedModel, name: str, args: argparse.Namespace) -> Measured:
    corpus = read(name, model.config.model, model.tokenizer, args.stride, args.limit)
    with progress(Path(name).name, len(corpus.requests), "windows") as advance:
        return measured(corpus, model.score(corpus.requests, advance, args.batch_tokens))


main = entry_point(parser, run)
