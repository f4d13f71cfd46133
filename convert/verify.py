"""`jaxneox verify SRC DST`: tell whether two checkpoints compute the same; exits 0 or 1."""

import argparse
from pathlib import Path

from convert.opening import open_pair
from convert.ours.folded import beside
from convert.proof.case import Case
from convert.proof.conclude import prove_with_bar, report
from convert.proof.sample import read_tokens
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.console.say import say


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
    opened = open_pair(args.src, args.dst, args.config)
    source, target = beside(*opened), beside(*reversed(opened))
    text = None
    if args.tokens:
        text = read_tokens(args.tokens, target.model, source.tokenizer or target.tokenizer)
    case = Case.of(source, target, text)
    proof = prove_with_bar(case)
    say(*report(case, proof))
    return 0 if proof.holds else 1


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
