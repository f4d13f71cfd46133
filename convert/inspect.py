"""`jaxneox inspect PATH`: say what a checkpoint is and what can be done with it."""

import argparse
import json
from pathlib import Path

from convert.inspection.facts import TITLES, Facts, Kind
from convert.inspection.recognise import recognise
from convert.inspection.screen import screen
from jaxneox.console.execute import entry_point
from jaxneox.console.parser import Parser
from jaxneox.console.say import say
from jaxneox.console.waiting import waiting
from jaxneox.errors import UserError


def parser() -> Parser:
    p = Parser(
        "inspect",
        "Say what a checkpoint of GPT-NeoX, Hugging Face, Megatron-LM or jaxneox is, and what can "
        "be done with it. Exits 0, and 2 where something is missing, damaged or cannot be read "
        "here. Weights of up to a gigabyte are read to look for NaN; larger ones are not.",
        [
            ("path/to/anything", "its facts on one screen, and the commands that take it"),
            ("neox_run --step 143000 --json", "of one step, for a program"),
        ],
    )
    p.add_argument("path", metavar="PATH", type=Path,
        help="a run, a step or a model's folder, on this disk")  # fmt: skip
    what = p.add_argument_group("what to look at")
    what.add_argument("--step", type=int, metavar="N",
        help="a step of the run; by default the one that would be loaded")  # fmt: skip
    what.add_argument("--kind", choices=TITLES, help="where a folder holds several")
    what.add_argument("--config", nargs="+", metavar="X.yml", type=Path,
        help="of a NeoX checkpoint without one")  # fmt: skip
    what.add_argument("--drift", action="store_true",
        help="read the ranks' copies however large they are")  # fmt: skip
    what.add_argument("--numbers", action="store_true",
        help="read all weights, however large, to name those with NaN or infinity")  # fmt: skip
    p.add_argument_group("how to show it").add_argument("--json", action="store_true",
        help="the same facts for a program")  # fmt: skip
    return p


def run(args: argparse.Namespace) -> int:
    kind = recognise(args.path, args.kind)
    with waiting(f"reading {args.path}"):
        facts = inspect(args, kind)
    say(json.dumps(facts.as_json(), indent=1) if args.json else screen(facts))
    if facts.problems:
        more = len(facts.problems) - 1
        raise UserError(facts.problems[0] + (f" (and {more} more)" if more else ""))
    return 0


def inspect(args: argparse.Namespace, kind: Kind) -> Facts:
    """Collect a checkpoint's facts, importing only the reader of its kind: just ours needs jax."""
    path, step, numbers = args.path, args.step, args.numbers
    match kind:
        case "neox":
            from convert.inspection.neox import inspect_neox

            return inspect_neox(
                path, step=step, config=args.config, drift=args.drift, numbers=numbers
            )
        case "jaxneox":
            from convert.inspection.jaxneox import inspect_jaxneox

            return inspect_jaxneox(path, step=step, numbers=numbers)
        case "megatron":
            from convert.inspection.megatron import inspect_megatron

            return inspect_megatron(path, step=step, numbers=numbers)
        case "huggingface":
            from convert.inspection.hf import inspect_hf

            return inspect_hf(path, numbers=numbers)


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
