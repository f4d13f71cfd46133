"""`jaxneox convert to-megatron SRC DST --tp 2 --pp 1`: files that Megatron-LM itself loads."""

import argparse
from pathlib import Path

from convert.casting import CHOICES
from convert.fate import Fate, check_whole
from convert.megatron.arguments import arguments, command_line
from convert.megatron.export import Export, Layout
from convert.proof.case import case_of
from convert.proof.certificate import certificate
from convert.proof.conclude import conclude
from convert.readers.jaxneox import open_jaxneox
from convert.readers.megatron import open_megatron
from convert.writers.megatron import LegacyWriter, TorchDistWriter
from convert.writers.staging import Staging, refuse_existing
from jaxneox.console.execute import entry_point
from jaxneox.console.extras import require
from jaxneox.console.parser import Parser
from jaxneox.console.progress import progress, warn


def parser() -> Parser:
    p = Parser(
        "convert to-megatron",
        "Convert a jaxneox checkpoint to Megatron-LM's files for a tensor and pipeline parallel "
        "size. Weights alone: Megatron-LM starts a new optimizer.",
        [
            ("runs/mine OUT --tp 2", "torch_dist, which is read with any other sizes as well"),
            ("runs/mine OUT --format torch --tp 2 --pp 2", "a file for each of four ranks"),
        ],
    )
    p.add_argument("src", metavar="SRC", type=Path, help="a run or one of its step_N folders")
    p.add_argument("dst", metavar="DST", type=Path, help="a folder that does not exist yet")
    layout = p.add_argument_group("for which ranks")
    layout.add_argument("--tp", type=int, default=1, metavar="N",
        help="Megatron's tensor-model-parallel-size")  # fmt: skip
    layout.add_argument("--pp", type=int, default=1, metavar="N",
        help="Megatron's pipeline-model-parallel-size")  # fmt: skip
    layout.add_argument("--virtual", type=int, default=1, metavar="N",
        help="virtual stages of each stage")  # fmt: skip
    how = p.add_argument_group("what to write")
    how.add_argument("--step", type=int, metavar="N", help="its step; the newest by default")
    how.add_argument("--format", choices=("torch", "torch_dist"), default="torch_dist",
        help="torch_dist is read with any other sizes as well")  # fmt: skip
    how.add_argument("--transformer-impl", choices=("local", "transformer_engine"), default="local",
        help="whose names the torch format has; torch_dist has the same for both")  # fmt: skip
    how.add_argument("--dtype", choices=CHOICES, default="keep", help="type of the stored weights")
    how.add_argument("--no-verify", action="store_true", help="do not prove the result")
    return p


def run(args: argparse.Namespace) -> int:
    refuse_existing(args.dst)
    require("torch", "writing Megatron-LM's files")
    source = open_jaxneox(args.src, args.step)
    layout = Layout(args.tp, args.pp, args.virtual, args.format)
    export = Export(source, layout, args.dtype)
    warn(export.notes)
    with Staging(args.dst, export.nbytes) as folder:
        fates = write(export, folder, te_names=args.transformer_impl == "transformer_engine")
        facts = {"kind": "jaxneox", "step": source.place.step, "written for": str(layout)}
        record = certificate(
            f"jaxneox step {source.place.step} to Megatron-LM",
            (args.src, args.dst),
            facts | {"dtype": export.dtype.name},
            fates,
            export.notes,
            files=[],
        )
        case = None if args.no_verify else case_of(source, open_megatron(folder))
        said = conclude(record, case, folder, args.dst)
    print("\n".join(said))
    print(f"{args.dst}   Megatron-LM's checkpoint for {layout}")
    print(f"{args.dst}/certificate.md   what was done")
    flags = command_line(export, args.transformer_impl)
    print(f"Next: pretrain_gpt.py --load {args.dst} {flags} …")
    return 0


def write(export: Export, folder: Path, *, te_names: bool) -> list[Fate]:
    """Everything but the certificate. Returns the account of every tensor."""
    source, layout, L = export.source, export.layout, export.model.num_layers
    step, fates = source.place.step, []
    dist = TorchDistWriter(folder, step, L, layout) if layout.format == "torch_dist" else None
    legacy = None if dist else LegacyWriter(folder, step, L, layout, te_names=te_names)
    with progress("converting", export.nbytes // 2) as bar:
        for layer, tensors, account in export.layers():
            fates += account
            if dist:
                dist.write(layer, tensors)
            if legacy:
                for rank, own in enumerate(export.ranks(layer, tensors)):
                    legacy.write(layer, rank, own)
            bar(sum(tensor.nbytes for tensor in tensors.values()))
    for writer in (dist, legacy):
        if writer:
            writer.finish(arguments(export))
    if source.tokenizer is not None:
        source.tokenizer.save(folder / "tokenizer")
    check_whole(fates)
    return fates


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
