"""`python -m convert.verify SRC DST`: whether two checkpoints compute the same; exits 0 or 1."""

import argparse
from pathlib import Path

from convert.agreement import check_agreement
from convert.console import Parser, command
from convert.proof.case import Opened, case_of, tokenizers
from convert.proof.conclude import prove_with_bar, report
from convert.proof.sample import read_tokens
from convert.readers.hf import HfCheckpoint
from convert.readers.jaxneox import open_jaxneox
from convert.readers.neox import open_neox
from jaxneox.errors import UserError


def parser() -> Parser:
    p = Parser(
        "verify",
        "Prove that two checkpoints compute the same, layer by layer and from end to end, in "
        "float64. Each is a jaxneox run, a GPT-NeoX checkpoint or a folder of Hugging Face's.",
    )
    add = p.add_argument
    add("src", metavar="SRC", type=Path)
    add("dst", metavar="DST", type=Path)
    add("--tokens", type=Path, metavar="FILE", help="an .npz with `tokens`, an .npy, or a text")
    add("--config", nargs="+", metavar="X.yml", type=Path, help="of a NeoX checkpoint")
    return p


def run(args: argparse.Namespace) -> int:
    source, target = (open_any(path, args.config) for path in (args.src, args.dst))
    tokens = None
    if args.tokens:
        model = target.model
        tokens = read_tokens(args.tokens, model, next(tokenizers(source, target), None))
    case = case_of(source, target, tokens)
    proof = prove_with_bar(case)
    for line in report(case, proof):
        print(line)
    return 0 if proof.holds else 1


def open_any(path: Path, config: list[Path] | None = None) -> Opened:
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected a checkpoint")
    if (path / "config.json").is_file():
        return HfCheckpoint(path)
    if (path / "meta").is_dir() or any(path.glob("step_*")):
        return open_jaxneox(path)
    source = open_neox(path, config=config)
    check_agreement(source)
    return source


main = command(parser, run)

if __name__ == "__main__":
    main()
