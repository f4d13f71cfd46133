"""`jaxneox convert from-neox SRC DST`: a GPT-NeoX checkpoint as ours, with a certificate."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convert import next_command
from convert.agreement import check_agreement
from convert.apply import leaf_shapes
from convert.casting import CHOICES
from convert.merge import make_plan
from convert.plan import Choices, Norms, Plan
from convert.proof.account import files_not_read, left_out, source_facts
from convert.proof.case import case_of
from convert.proof.certificate import certificate
from convert.proof.conclude import conclude
from convert.readers.jaxneox import open_jaxneox
from convert.readers.neox import NeoxCheckpoint
from convert.readers.neox_open import open_neox
from convert.stream import stream
from convert.tokenizers import check_rows, find_tokenizer
from convert.training import (
    Counterpart,
    Training,
    open_training,
    training_facts,
    training_notes,
    write_training,
)
from convert.training_keys import training_keys
from convert.writers.jaxneox import JaxneoxWriter, nbytes
from convert.writers.staging import Staging, refuse_existing
from jaxneox.config import resolve, saved_keys, tokenizer_of
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.console.progress import progress, warn
from jaxneox.errors import UserError

OF_ITS_RUN = ("save", "load", "iteration", "finetune")
"""Keys that would make a run of ours go on where NeoX's was."""


def parser() -> Parser:
    p = Parser(
        "convert from-neox",
        "Convert a GPT-NeoX checkpoint, of any model and pipeline parallel size, to a jaxneox one "
        "that computes what NeoX computed, and certify it.",
        [
            ("neox_run runs/mine", "the weights, of the newest step"),
            ("neox_run runs/mine --optimizer", "the whole training, which then goes on here"),
        ],
    )
    p.add_argument("src", metavar="SRC",
        help="a run, a global_stepN folder, or hf://owner/name[@revision]")  # fmt: skip
    p.add_argument("dst", metavar="DST", type=Path, help="a folder that does not exist yet")
    source = p.add_argument_group("what to read")
    source.add_argument("--step", type=int, metavar="N", help="its step; `latest` by default")
    source.add_argument("--config", nargs="+", metavar="X.yml", type=Path,
        help="YAML files instead of the checkpoint's own")  # fmt: skip
    source.add_argument("--tokenizer", type=Path, metavar="FILE",
        help="instead of the YAML's vocab-file")  # fmt: skip
    source.add_argument("--optimizer", action="store_true",
        help="Adam's moments and the counters too: the run goes on where NeoX's was; drifted norms "
        "are then averaged")  # fmt: skip
    how = p.add_argument_group("how to convert it")
    how.add_argument("--dtype", choices=CHOICES, default="keep",
        help="type of the stored weights. keep: the source's, but float32 for what that cannot "
        "hold")  # fmt: skip
    how.add_argument("--norms", choices=("fold", "mean", "first"), default="fold",
        help="drifted copies of norms. fold: kept exactly; mean, first: NeoX's own merges, for "
        "comparison")  # fmt: skip
    how.add_argument("--biases", choices=("auto", "sum", "once"), default="auto",
        help="output biases. auto: summed for a parallel residual, once for a sequential one; "
        "sum, once: always so, for comparison")  # fmt: skip
    how.add_argument("--clean-biases", action="store_true",
        help="with --optimizer: a merged output bias moves one step at a time, not as the ranks' "
        "copies together")  # fmt: skip
    how.add_argument("--no-verify", action="store_true", help="do not prove the result")
    return p


def run(args: argparse.Namespace) -> int:
    refuse_existing(args.dst)
    source = open_neox(local(args.src), step=args.step, config=args.config)
    check_agreement(source)
    training = open_training(source) if args.optimizer else None
    if training and source.dtype.itemsize < 4:
        source = Counterpart(source, training.optimizer, "master")
    norms: Norms = "mean" if args.norms == "fold" and training else args.norms
    choices = Choices(norms, args.biases, args.dtype)
    plan = make_plan(source, choices)
    if training:
        plan.keys |= training_keys(
            source, training.optimizer, training.summed, clean=args.clean_biases
        )
        plan.warnings += training_notes(source, training, plan)
    warn(plan.warnings)
    said = convert(source, plan, choices, training, args)
    print("\n".join(said))
    print(f"{args.dst}   the checkpoint: jaxneox.load({str(args.dst)!r})")
    print(f"{args.dst}/certificate.md   what was done and how it was proved")
    print(next_command.after(args.dst, optimizer=training is not None))
    return 0


def local(src: str) -> Path:
    if not src.startswith("hf://"):
        return Path(src)
    from convert.readers.hub import download

    return download(src, ("*.pt", "*.yml", "*.yaml", "latest", "*.json"))


def convert(
    source: NeoxCheckpoint,
    plan: Plan,
    choices: Choices,
    training: Training | None,
    args: argparse.Namespace,
) -> list[str]:
    """Writes DST. Returns what the proof found, for the terminal."""
    keys = destination_keys(source, plan)
    tokenizer, notes = find_tokenizer(tokenizer_of(keys), args.tokenizer, source.files.folder)
    warn(notes)
    if tokenizer is not None:
        named = args.tokenizer or keys.get("vocab_file") or tokenizer.name
        rows = plan.model.vocab_size
        if tokenizer.vocab_size > rows:
            raise UserError(
                f"{named}: has {tokenizer.vocab_size} tokens, the model {rows} rows; use the "
                "tokenizer it was trained with"
            )
        check_rows(tokenizer, rows, named)
        if args.tokenizer is not None:  # the run's own copy counts, not what the YAML named
            keys = {n: v for n, v in keys.items() if n not in ("vocab_file", "merge_file")}
            keys["tokenizer_type"] = tokenizer.name
    config = resolve(keys, dp=source.dp, vocab_size=None)
    leaves = leaf_shapes(plan)
    with Staging(args.dst, nbytes(leaves)) as folder:
        writer = JaxneoxWriter(folder, source.step, leaves)
        with progress("converting", source.nbytes) as bar:
            more = training.files if training else ()
            fates, digests = stream(source, plan, writer, bar, more)
        if training:
            with progress("carrying over the optimizer", 2 * nbytes(leaves)) as bar:
                write_training(source, training, config, writer, bar)
        if tokenizer is not None:
            tokenizer.save(folder / "tokenizer")
        origin = {"conversion": {"from": "GPT-NeoX", **asdict(choices)}}
        writer.finish(saved_keys(config), origin)
        record = certificate(
            f"GPT-NeoX step {source.step}, model-parallel size {source.mp}, to jaxneox",
            (source.files.folder, args.dst),
            source_facts(source, plan) | (training_facts(training) if training else {}),
            [*fates, *left_out(source)],
            [*plan.warnings, *notes],
            digests,
            files_not_read(source),
        )
        case = None if args.no_verify else case_of(source, open_jaxneox(folder), plan=plan)
        return conclude(record, case, folder, args.dst)


def destination_keys(source: NeoxCheckpoint, plan: Plan) -> dict[str, Any]:
    """The source's YAML, with what merging changed; a YAML that trains nothing is completed."""
    keys = {name: value for name, value in plan.keys.items() if name not in OF_ITS_RUN}
    keys.setdefault("train_iters", max(1, source.step))
    if not keys.keys() & {"train_batch_size", "train_micro_batch_size_per_gpu", "batch_size"}:
        keys["train_micro_batch_size_per_gpu"] = 1
    return keys


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
