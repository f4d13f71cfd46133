"""`python -m jaxneox.plan CONFIG.yml --topology v5p:4x4x4 --mesh dp=16,tp=4`"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jaxneox.config import apply_set, load_yaml
from jaxneox.data.commands.console import Parser, check_output, execute
from jaxneox.errors import UserError
from jaxneox.plan.topology import parse_topology, prepare


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m jaxneox.plan",
        description="Compile a run's training step for machines that are not here: whether it fits "
        "into their memory, what it computes and sends, and how long that takes at their rates.",
    )
    add = p.add_argument
    add("configs", nargs="+", metavar="CONFIG.yml", help="YAMLs to merge, as train.py takes them")
    add("--topology", required=True, metavar="v5p:4x4x4", help="a TPU slice, or cpu:8")
    add("--mesh", metavar="dp=16,tp=4", help="devices by axis; the YAML's own unless given")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="any YAML key")
    add("--search", nargs="?", type=int, const=3, metavar="N", help="compile the N likely best")
    add(
        "--html",
        type=Path,
        metavar="FILE",
        help="one page with pictures; with --search of the best",
    )
    p.set_defaults(run=run)
    return p


def run(args: argparse.Namespace) -> int:
    keys = apply_set(load_yaml(args.configs), args.set)
    topology = parse_topology(args.topology)
    if args.search is not None and (args.search < 1 or topology.chip is None):
        raise UserError("--search N needs N of 1 or more and a topology whose rates are known")
    check_output(args.html)
    prepare(topology)
    # jax starts below, with what the topology needs of it
    from jaxneox.parallel.compilation import use_compilation_cache
    from jaxneox.plan.best import best
    from jaxneox.plan.page import write_page
    from jaxneox.plan.planned import compile_for
    from jaxneox.plan.report import report
    from jaxneox.plan.setup import plan_of, sizes_on

    if topology.kind == "cpu":  # a program for devices that are not there cannot be read back
        use_compilation_cache()
    if len(topology.devices) != topology.count:
        raise UserError(f"{topology.name} has {len(topology.devices)} devices, not one a chip")
    plan, notes = plan_of(keys, sizes_on(args.mesh, keys, topology))
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    planned = (
        best(keys, plan, topology, args.search) if args.search else compile_for(plan, topology)
    )
    print(report(planned))
    if args.html:
        write_page(planned, args.html)
        print(f"\nwritten: {args.html}")
    return 0


def main(argv: Sequence[str] | None = None) -> NoReturn:
    execute(parser(), argv)


if __name__ == "__main__":
    main()
