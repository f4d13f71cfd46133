"""`jaxneox convert to-neox SRC DST --mp 2 --pp 1`: files that GPT-NeoX itself loads."""

import argparse
from pathlib import Path
from typing import Any

from convert.fate import Fate, check_whole
from convert.neox_training import NeoxTraining, open_training
from convert.proof.case import case_of
from convert.proof.certificate import certificate
from convert.proof.conclude import conclude
from convert.readers.jaxneox import open_jaxneox
from convert.readers.neox_open import open_neox
from convert.split import Layout, Split
from convert.writers.neox import NeoxWriter
from convert.writers.staging import Staging, refuse_existing
from jaxneox.console.execute import entry_point
from jaxneox.console.extras import require
from jaxneox.console.parser import Parser
from jaxneox.console.progress import progress, warn
from jaxneox.errors import UserError


def parser() -> Parser:
    p = Parser(
        "convert to-neox",
        "Convert a jaxneox checkpoint to GPT-NeoX's files for a model and pipeline parallel size. "
        "Biases that NeoX adds once on every rank are divided into shares whose sum is the bias "
        "again: exactly in float32, and in half precision for a power of two. Without --optimizer "
        "NeoX starts a new one.",
        [
            ("runs/mine OUT --mp 2", "the weights, for two model-parallel ranks"),
            ("runs/mine OUT --optimizer --dp 4", "the whole training, which then goes on in NeoX"),
        ],
    )
    p.add_argument("src", metavar="SRC", type=Path, help="a run or one of its step_N folders")
    p.add_argument("dst", metavar="DST", type=Path, help="a folder that does not exist yet")
    source = p.add_argument_group("what to write")
    source.add_argument("--step", type=int, metavar="N", help="its step; the newest by default")
    source.add_argument("--optimizer", action="store_true",
        help="Adam's moments and the counters too: NeoX goes on where the run is (float32, "
        "bfloat16)")  # fmt: skip
    layout = p.add_argument_group("for which ranks")
    layout.add_argument("--mp", type=int, default=1, metavar="N", help="NeoX's model-parallel-size")
    layout.add_argument("--pp", type=int, metavar="N",
        help="NeoX's pipe-parallel-size; 1 by default, 0 means --sequential")  # fmt: skip
    layout.add_argument("--sequential", action="store_true",
        help="the files of the engine without a pipeline")  # fmt: skip
    layout.add_argument("--dp", type=int, default=1, metavar="N",
        help="with --optimizer, NeoX's data-parallel ranks: how many micro-batches it sums follows "
        "from it")  # fmt: skip
    how = p.add_argument_group("how to write it")
    how.add_argument("--names", choices=("head", "2023"), default="head", help="of NeoX's tensors")
    how.add_argument("--no-verify", action="store_true", help="do not prove the result")
    return p


def run(args: argparse.Namespace) -> int:
    refuse_existing(args.dst)
    require("torch", "writing NeoX's files")
    source = open_jaxneox(args.src, args.step)
    if args.sequential and args.pp not in (None, 0):
        raise UserError(f"--sequential and --pp {args.pp}: files are of one of the two engines")
    pp = 0 if args.sequential else 1 if args.pp is None else args.pp
    layout = Layout(args.mp, pp, args.names == "2023")
    split = Split(source, layout)
    with Staging(args.dst, split.nbytes * (3 if args.optimizer else 1)) as folder:
        training: NeoxTraining | None = None
        keys: dict[str, Any] = {}
        if args.optimizer:
            training, keys, notes = open_training(source, layout, kept_in(folder), args.dp)
            split.warnings += notes
        warn(split.warnings)
        fates = write(split, folder, args.dst, training, keys)
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
    loads = "NeoX goes on with it" if training else "finetune loads the weights, at iteration 0"
    print(f"{args.dst}/neox_config.yml   its YAML: {loads}")
    return 0


def kept_in(folder: Path) -> Path:
    """Where moments lie until their files are written."""
    kept = folder / ".moments"
    kept.mkdir()
    return kept


def write(
    split: Split,
    folder: Path,
    dst: Path,
    training: NeoxTraining | None,
    further: dict[str, Any],
) -> list[Fate]:
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
    if split.tokenizer is not None:
        split.tokenizer.save(folder / "tokenizer")
    keys = split.keys(dst) | further
    if training is not None:
        keys.pop("finetune")
    writer.finish(keys, split.args(), training)
    if training is not None:
        training.adam.remove()
    check_whole(fates)
    return fates


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
