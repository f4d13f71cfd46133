"""`jaxneox verify SRC DST`: whether two checkpoints compute the same; exits 0 or 1."""

import argparse
from dataclasses import replace
from pathlib import Path

from convert.agreement import check_agreement
from convert.megatron.config import Choices
from convert.proof.case import Opened, case_of, tokenizers
from convert.proof.conclude import prove_with_bar, report
from convert.proof.sample import read_tokens
from convert.readers.hf import HfCheckpoint
from convert.readers.jaxneox import JaxneoxCheckpoint, open_jaxneox
from convert.readers.megatron import open_megatron
from convert.readers.megatron_files import is_megatron
from convert.readers.neox_open import open_neox
from jaxneox.config import load_yaml
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.errors import UserError


def parser() -> Parser:
    p = Parser(
        "verify",
        "Prove that two checkpoints compute the same, number by number, layer by layer and from "
        "end to end, in float64. Exits 0 if they do and 1 if they do not.",
        [
            ("neox_run runs/mine", "whether a conversion kept the function"),
            ("runs/a runs/b --tokens book.txt", "on a text of one's own"),
        ],
    )
    kinds = "a run or step of jaxneox, GPT-NeoX or Megatron-LM, or a folder of Hugging Face's"
    p.add_argument("src", metavar="SRC", type=Path, help=kinds)
    p.add_argument("dst", metavar="DST", type=Path, help="the other one")
    how = p.add_argument_group("how to compare them")
    how.add_argument("--tokens", type=Path, metavar="FILE",
        help="an .npz with `tokens`, an .npy, or a text")  # fmt: skip
    how.add_argument("--config", nargs="+", metavar="X.yml", type=Path,
        help="the YAML of a NeoX checkpoint that has none, or instead of a Megatron-LM "
        "checkpoint's own arguments")  # fmt: skip
    return p


def run(args: argparse.Namespace) -> int:
    source, target = open_both(args.src, args.dst, args.config)
    text = None
    if args.tokens:
        text = read_tokens(args.tokens, target.model, next(tokenizers(source, target), None))
    case = case_of(source, target, text)
    proof = prove_with_bar(case)
    print("\n".join(report(case, proof)))
    return 0 if proof.holds else 1


def open_both(src: Path, dst: Path, config: list[Path] | None) -> tuple[Opened, Opened]:
    """What a checkpoint of ours says that a Megatron-LM one means, counts for the other of two."""
    if is_megatron(src) and not is_megatron(dst):
        target = open_any(dst, config)
        return open_any(src, config, choices_by(target)), target
    source = open_any(src, config)
    return source, open_any(dst, config, choices_by(source))


def choices_by(other: Opened) -> Choices:
    return Choices.of(other.conversion if isinstance(other, JaxneoxCheckpoint) else {})


def open_any(
    path: Path, config: list[Path] | None = None, choices: Choices | None = None
) -> Opened:
    if not path.is_dir():
        raise UserError(
            f"{path}: no such folder; expected a checkpoint on this disk (convert what is on a hub "
            "first)"
        )
    if (path / "config.json").is_file():
        return HfCheckpoint(path)
    if (path / "meta").is_dir() or any(path.glob("step_*")):
        return open_jaxneox(path)
    if is_megatron(path):
        choices = choices or Choices()
        given = replace(choices, keys=load_yaml(config)) if config else choices
        return open_megatron(path, choices=given)
    source = open_neox(path, config=config)
    check_agreement(source)
    return source


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
