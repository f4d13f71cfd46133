"""`python -m convert.to_neox SRC DST --mp 2 --pp 1`: files that GPT-NeoX itself loads."""

import argparse
from pathlib import Path

from convert.console import Parser, command, progress, warn
from convert.fate import Fate, check_whole
from convert.proof.case import case_of
from convert.proof.certificate import certificate
from convert.proof.conclude import conclude
from convert.readers.jaxneox import open_jaxneox
from convert.readers.neox_open import open_neox
from convert.split import Layout, Split
from convert.writers.neox import NeoxWriter
from convert.writers.staging import Staging, refuse_existing
from jaxneox.errors import UserError


def parser() -> Parser:
    p = Parser(
        "to_neox",
        "Convert a jaxneox checkpoint to GPT-NeoX's files for a model and pipeline parallel size. "
        "Biases that NeoX adds once on every rank are divided into shares whose sum is the bias "
        "again: exactly in float32, and in half precision for a power of two. Weights alone: NeoX "
        "starts a new optimizer.",
    )
    add = p.add_argument
    add("src", metavar="SRC", type=Path, help="a jaxneox run or one of its step_N folders")
    add("dst", metavar="DST", type=Path, help="a folder that does not exist yet")
    add("--mp", type=int, default=1, metavar="N", help="NeoX's model-parallel-size")
    add("--pp", type=int, metavar="N", help="pipe-parallel-size, by default 1; 0 is --sequential")
    add("--sequential", action="store_true", help="the files of the engine without a pipeline")
    add("--names", choices=("head", "2023"), default="head", help="of NeoX's tensors")
    add("--step", type=int, metavar="N", help="of a run; by default its newest")
    add("--no-verify", action="store_true", help="write no proof")
    return p


def run(args: argparse.Namespace) -> int:
    refuse_existing(args.dst)
    source = open_jaxneox(args.src, args.step)
    if args.sequential and args.pp not in (None, 0):
        raise UserError(f"--sequential and --pp {args.pp}: files are of one of the two engines")
    pp = 0 if args.sequential else 1 if args.pp is None else args.pp
    layout = Layout(args.mp, pp, args.names == "2023")
    split = Split(source, layout)
    warn(split.warnings)
    with Staging(args.dst, split.nbytes) as folder:
        fates = write(split, folder, args.dst)
        facts = {"kind": "jaxneox", "step": source.place.step, "written for": str(layout)}
        record = certificate(
            f"jaxneox step {source.place.step} to GPT-NeoX, {layout}",
            (args.src, args.dst),
            facts | {"dtype": split.dtype.name},
            fates,
            split.warnings,
            files=[],
        )
        case = None if args.no_verify else case_of(source, open_neox(folder))
        said = conclude(record, case, folder, args.dst)
    print("\n".join(said))
    print(f"{args.dst}   NeoX's checkpoint for {layout}")
    print(f"{args.dst}/certificate.md   what was done")
    print(f"{args.dst}/neox_config.yml   its YAML: finetune loads the weights, at iteration 0")
    return 0


def write(split: Split, folder: Path, dst: Path) -> list[Fate]:
    """Everything but the certificate. Returns the account of every tensor."""
    source, layout = split.source, split.layout
    writer = NeoxWriter(
        folder, source.place.step, mp=layout.mp, pp=layout.pp, old_names=layout.old_names
    )
    with progress("converting", split.nbytes) as bar:
        fates = []
        for index, ranks, account in split.modules():
            fates += account
            for rank, tensors in enumerate(ranks):
                writer.write(index, rank, tensors)
                bar(sum(tensor.nbytes for tensor in tensors.values()))
    if source.tokenizer is not None:
        source.tokenizer.save(folder / "tokenizer")
    writer.finish(split.keys(dst), split.args())
    check_whole(fates)
    return fates


main = command(parser, run)

if __name__ == "__main__":
    main()
