"""`jaxneox convert from-megatron SRC DST`: a Megatron-LM checkpoint as ours, certified."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from convert import next_command
from convert.casting import CHOICES, cast, chosen
from convert.fate import Fate, check_whole
from convert.hf.tokenizer import tokenizer_at
from convert.megatron.account import account, facts, left_out
from convert.megatron.config import Choices
from convert.megatron.training import training_facts, training_keys, write_training
from convert.proof.case import case_of
from convert.proof.certificate import certificate
from convert.proof.conclude import conclude
from convert.readers.digest import Digests
from convert.readers.jaxneox import open_jaxneox
from convert.readers.megatron import MegatronCheckpoint, open_megatron
from convert.readers.megatron_optimizer import MegatronOptimizer, open_optimizer
from convert.rules.megatron import rules
from convert.tokenizers import check_rows, notes_of
from convert.unsaid import OPTIMIZER_SAYS
from convert.writers.jaxneox import STACKED, JaxneoxWriter, nbytes, written
from convert.writers.staging import Staging, refuse_existing
from jaxneox.config import load_yaml, resolve, saved_keys
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.console.progress import Advance, progress, warn
from jaxneox.data import Tokenizer

Leaves = dict[str, tuple[tuple[int, ...], np.dtype]]


def parser() -> Parser:
    p = Parser(
        "convert from-megatron",
        "Convert a Megatron-LM checkpoint of a GPT, of any generation and format, tensor and "
        "pipeline parallel size, to a jaxneox one with the same function, and certify it.",
        [
            ("megatron_run runs/mine --tokenizer tokenizer.json", "the weights of the newest step"),
            ("megatron_run runs/mine --optimizer", "the whole training, which then goes on here"),
        ],
    )
    p.add_argument(
        "src", metavar="SRC", type=Path, help="a run, or one of its iter_NNNNNNN folders"
    )
    p.add_argument("dst", metavar="DST", type=Path, help="a folder that does not exist yet")
    source = p.add_argument_group("what to read")
    source.add_argument("--step", type=int, metavar="N", help="its step; the newest by default")
    source.add_argument("--config", nargs="+", metavar="X.yml", type=Path, default=[],
        help="NeoX's keys, instead of what arguments and tensors say")  # fmt: skip
    source.add_argument("--tokenizer", type=Path, metavar="FILE",
        help="Megatron keeps none with a checkpoint")  # fmt: skip
    source.add_argument("--optimizer", action="store_true",
        help="Adam's moments, master weights and counters too: the run goes on where Megatron's "
        "was")  # fmt: skip
    how = p.add_argument_group("how to convert it")
    how.add_argument("--dtype", choices=CHOICES, default="keep", help="type of the stored weights")
    how.add_argument("--gelu", choices=("tanh", "erf"),
        help="which form it has, whatever the arguments say")  # fmt: skip
    how.add_argument("--zero-centered-gamma", choices=("yes", "no"),
        help="whether norms multiply by 1 + weight, whatever the arguments say")  # fmt: skip
    how.add_argument("--no-verify", action="store_true", help="do not prove the result")
    return p


def run(args: argparse.Namespace) -> int:
    refuse_existing(args.dst)
    source = open_megatron(args.src, step=args.step, choices=choices_of(args))
    optimizer: MegatronOptimizer | None = None
    further: dict[str, Any] = {}
    notes: list[str] = []
    if args.optimizer:
        optimizer = open_optimizer(source)
        shards, precision = source.shards, source.keys["precision"]
        further, notes = training_keys(shards.args, optimizer, shards.step, precision)
        source = optimizer.kinds["param"]  # the master weights
    leaves = {
        name: (shape, chosen(args.dtype, source.dtype(name)))
        for name, shape in source.shapes.items()
    }
    tokenizer, missing = find_tokenizer(source, args.tokenizer)
    said = [*source.notes, *missing, *notes]
    warn(said)
    lines = convert(source, leaves, tokenizer, said, args, optimizer, further)
    print("\n".join(lines))
    print(f"{args.dst}   the checkpoint: jaxneox.load({str(args.dst)!r})")
    print(f"{args.dst}/certificate.md   what was done and how it was proved")
    print(next_command.after(args.dst, optimizer=optimizer is not None))
    return 0


def choices_of(args: argparse.Namespace) -> Choices:
    centred = {"yes": True, "no": False}.get(args.zero_centered_gamma)
    return Choices(args.gelu, centred, load_yaml(args.config) if args.config else None)


def find_tokenizer(
    source: MegatronCheckpoint, given: Path | None
) -> tuple[Tokenizer | None, list[str]]:
    """The given one, and what there is to say where there is none."""
    if given is None:
        return None, ["the checkpoint gets no tokenizer; give one with --tokenizer FILE"]
    tokenizer = tokenizer_at(given)
    check_rows(tokenizer, source.model.vocab_size, given)
    return tokenizer, notes_of(tokenizer)


def convert(
    source: MegatronCheckpoint,
    leaves: Leaves,
    tokenizer: Tokenizer | None,
    said: list[str],
    args: argparse.Namespace,
    optimizer: MegatronOptimizer | None,
    further: dict[str, Any],
) -> list[str]:
    """Writes DST. Returns what the proof found, for the terminal."""
    named = {} if tokenizer is None else {"tokenizer_type": tokenizer.name}
    keys = {n: v for n, v in source.keys.items() if not (further and n in OPTIMIZER_SAYS)}
    config = resolve(keys | named | further, dp=1, vocab_size=None)
    opened = source.shards.opened
    with Staging(args.dst, nbytes(leaves)) as folder, Digests(opened) as digests:
        writer = JaxneoxWriter(folder, source.shards.step, leaves)
        with progress("converting", nbytes(leaves)) as bar:
            fates = stream(source, writer, leaves, bar)
        if optimizer is not None:
            with progress("carrying over the optimizer", 2 * nbytes(leaves)) as bar:
                write_training(source, optimizer, config, writer, bar)
        if tokenizer is not None:
            tokenizer.save(folder / "tokenizer")
        writer.finish(saved_keys(config), {"conversion": source.choices.said()})
        record = certificate(
            f"Megatron-LM step {source.shards.step} to jaxneox",
            (args.src, args.dst),
            facts(source) | (training_facts(source, optimizer) if optimizer else {}),
            [*fates, *left_out(source)],
            said,
            digests.results(),
        )
        case = None if args.no_verify else case_of(source, open_jaxneox(folder))
        return conclude(record, case, folder, args.dst)


def stream(
    source: MegatronCheckpoint, writer: JaxneoxWriter, leaves: Leaves, advance: Advance
) -> list[Fate]:
    """Every leaf, in the memory of a layer. Returns the account of every tensor."""
    fates = []
    for layer in (None, *range(source.model.num_layers)):
        values = {}
        for rule in rules(source.model, inside=layer is not None):
            for name, leaf in source.leaves(rule, layer).items():
                values[name] = cast(name, leaf, leaves[name][1])
            if source.has(rule, layer):
                fates.append(account(source, rule, layer, values))
        futures = [
            writer.write(name, layer if name.startswith(STACKED) else None, value)
            for name, value in values.items()
        ]
        written(futures, writer.folder)
        source.forget()
        advance(sum(value.nbytes for value in values.values()))
    check_whole(fates)
    return fates


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
