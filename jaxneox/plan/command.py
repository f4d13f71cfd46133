"""The command `jaxneox plan CONFIG.yml --topology v5p:4x4x4 --mesh dp=16,tp=4`."""

import argparse
import json
import math
from pathlib import Path

from jaxneox.config import Settings, apply_set, load_yaml
from jaxneox.console.execute import entry_point
from jaxneox.console.outputs import check_output
from jaxneox.console.parser import Parser
from jaxneox.console.say import say, tell
from jaxneox.errors import UserError
from jaxneox.plan.plugins import prepare
from jaxneox.plan.side_by_side import planned_apart, side_by_side
from jaxneox.plan.topology import parse_topology


def parser() -> Parser:
    p = Parser(
        "plan",
        "Compile a run's training step for machines that are not here: whether it fits into their "
        "memory, what it computes and sends, and how long that takes at their rates.",
        [
            ("20B --topology v5p:4x4x4 --mesh dp=16,tp=4", "GPT-NeoX-20B on 64 TPU chips"),
            ("20B --topology h100:8x8 --mesh dp=8,tp=8", "the same on eight hosts of eight GPUs"),
            ("pythia-12b --topology v5e:2x4 --search", "the fastest meshes of a smaller slice"),
        ],
    )
    p.add_argument("configs", nargs="+", metavar="CONFIG.yml|NAME",
        help="YAML files to merge, or the name of a shipped one")  # fmt: skip
    what = p.add_argument_group("what to compile")
    where = what.add_mutually_exclusive_group(required=True)
    where.add_argument("--topology", metavar="v5p:4x4x4",
        help="a TPU slice; hosts x GPUs of each, as in h100:8x8; or cpu:8")  # fmt: skip
    where.add_argument("--compare", nargs="+", metavar="NAME",
        help="several of them side by side, each planned in a process of its own")  # fmt: skip
    what.add_argument("--network", type=float, metavar="GB/S",
        help="of a GPU to other hosts, in each direction, instead of its table's")  # fmt: skip
    what.add_argument("--mesh", metavar="dp=16,tp=4",
        help="devices by axis, instead of the YAML's own")  # fmt: skip
    what.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="any YAML key, over the files'")  # fmt: skip
    what.add_argument("--search", nargs="?", type=int, const=3, metavar="N",
        help="compile the N meshes that are likely the best (3 where N is left out)")  # fmt: skip
    shown = p.add_argument_group("how to show it")
    shown.add_argument("--html", type=Path, metavar="FILE",
        help="write a page with pictures; with --search of the best")  # fmt: skip
    shown.add_argument("--json", action="store_true", help="the same figures for a program")
    return p


def run(args: argparse.Namespace) -> int:
    settings = Settings(apply_set(load_yaml(args.configs), args.set))
    if args.network is not None and not 0 < args.network < math.inf:
        raise UserError(f"--network {args.network}: expected GB/s above 0, such as 50")
    if args.compare:
        return compare(args)
    topology = parse_topology(args.topology, args.network)
    if args.search is not None and (args.search < 1 or topology.chip is None):
        raise UserError("--search N needs N of 1 or more and a topology whose rates are known")
    check_output(args.html)
    if args.search and args.mesh:
        tell("note: --search chooses the mesh itself; --mesh counts for the batch size alone")
    prepare(topology)
    # jax starts below, with what the topology needs of it
    from jaxneox.parallel.compilation import use_compilation_cache
    from jaxneox.plan.best import best
    from jaxneox.plan.figures import figures
    from jaxneox.plan.page import write_page
    from jaxneox.plan.planned import compile_for
    from jaxneox.plan.report import report
    from jaxneox.plan.setup import plan_of, sizes_on

    if topology.kind == "cpu":  # a program for devices that are not there cannot be read back
        use_compilation_cache()
    if len(topology.devices) != topology.count:
        raise UserError(f"{topology.name} has {len(topology.devices)} devices, not one a chip")
    plan, notes = plan_of(settings, sizes_on(args.mesh, settings, topology), topology)
    for note in notes:
        tell(f"note: {note}")
    planned = (
        best(settings, plan, topology, args.search, tell if args.json else say)
        if args.search
        else compile_for(plan, topology)
    )
    say(json.dumps(figures(planned)) if args.json else report(planned))
    if args.html:
        write_page(planned, args.html)
        tell(f"written: {args.html}") if args.json else say(f"\nwritten: {args.html}")
    return 0


def compare(args: argparse.Namespace) -> int:
    """Plan for several topologies, and print them side by side."""
    if len(args.compare) < 2:
        raise UserError("--compare: expected two topologies or more, as in v5p:4x4x4 h100:8x8")
    if args.html:
        raise UserError("--html draws one plan: give it with --topology")
    topologies = [parse_topology(name) for name in args.compare]
    if args.network is not None and not any(one.is_gpu for one in topologies):
        raise UserError(
            f"--network: none of {', '.join(args.compare)} has a network between hosts of GPUs; "
            "leave it out, or expected a topology such as h100:8x8"
        )
    words = [*args.configs, *(["--mesh", args.mesh] if args.mesh else [])]
    words += ["--set", *args.set] if args.set else []
    words += [] if args.search is None else ["--search", str(args.search)]
    plans = planned_apart(words, args.compare, args.network)
    say(json.dumps(plans) if args.json else side_by_side(plans))
    return 0


main = entry_point(parser, run)
