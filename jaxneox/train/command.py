"""`jaxneox train`: arguments to a run, by one process or as one of several."""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jaxneox.config import Settings, apply_set
from jaxneox.console import garbage
from jaxneox.console.execute import Ending, end, ending, hush
from jaxneox.console.parser import Parser, whole_number
from jaxneox.hosts import supervisor
from jaxneox.hosts.group import Group, group_of
from jaxneox.train.keys import read_keys, with_base

DEFAULT = "stdlib"
"""The shipped configuration that is trained if none is named."""

INTERRUPTED = "interrupted; what was saved before is whole"
Keys = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Train, and exit: 2 after a user's mistake, 75 if another process of the run is gone."""
    hush()
    words = list(sys.argv[1:] if argv is None else argv)
    group: Group | None = None

    def work() -> int:
        nonlocal group
        args = parser().parse_args(words)
        group = group_of(args.coordinator, args.num_processes, args.process_id)
        if (group or args.restarts) and not args.dry_run and supervisor.CHILD not in os.environ:
            command = supervisor.this_program(("train", *words))
            return supervisor.supervise(command, args.restarts, group.prefix if group else "")
        return run(args, group)

    try:
        with garbage.resting():
            outcome = ending(work, INTERRUPTED)
    except Exception:
        if group is None:
            raise
        from jaxneox.hosts.ending import crash

        crash()
    finish(outcome, group)


def finish(outcome: Ending, group: Group | None) -> NoReturn:
    """End this process, and all others of its run."""
    if outcome.line is None or group is None:
        end(outcome)
    if "jaxneox.hosts.watch" in sys.modules:
        from jaxneox.hosts.ending import end_all

        end_all(outcome.line, outcome.status, group.prefix)
    end(Ending(outcome.status, group.prefix + outcome.line))


def parser() -> Parser:
    p = Parser(
        "train",
        "Train a GPT-NeoX model from NeoX's own YAML files on any mesh, or continue a run. Without "
        "a YAML it trains a small model on the source of Python's standard library.",
        [
            ("--mesh dp=2,tp=4", "the default model on eight devices, virtual ones on a CPU"),
            ("pythia-70m --dry-run", "what a shipped configuration needs, without training it"),
        ],
    )
    p.add_argument("paths", nargs="*", metavar="A.yml|NAME|RUN",
        help="YAML files to merge, the name of a shipped one, or the folder of a run to "
        "continue")  # fmt: skip
    what = p.add_argument_group("what to train")
    what.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="any YAML key, over the files'")  # fmt: skip
    what.add_argument("--save", metavar="DIR", help="the run's folder (the YAML's key `save`)")
    what.add_argument("--load", metavar="DIR",
        help="a run or checkpoint to start from (the YAML's key `load`)")  # fmt: skip
    what.add_argument("--finetune", action="store_true",
        help="take only the weights from what is loaded, and start at step 0")  # fmt: skip
    what.add_argument("--tokens", metavar="FILE.npz", help="train on exactly these batches")
    what.add_argument("--allow-data-change", action="store_true",
        help="continue on other data than the checkpoint's")  # fmt: skip
    where = p.add_argument_group("where to train")
    where.add_argument("--mesh", metavar="dp=2,tp=4",
        help="devices by axis; one size may be -1: it takes the remaining devices")  # fmt: skip
    where.add_argument("--coordinator", metavar="HOST:PORT",
        help="where process 0 of several listens; or auto")  # fmt: skip
    where.add_argument("--num-processes", type=whole_number, metavar="N",
        help="how many processes make this run")  # fmt: skip
    where.add_argument("--process-id", type=whole_number, metavar="I",
        help="which of them this is, from 0")  # fmt: skip
    where.add_argument("--restarts", type=whole_number, default=0, metavar="N",
        help="start again after a crash, up to N times")  # fmt: skip
    shown = p.add_argument_group("what to look at")
    shown.add_argument("--dry-run", action="store_true",
        help="print configuration, memory and what is sent between devices, and stop")  # fmt: skip
    shown.add_argument("--sample", type=whole_number, metavar="N",
        help="at the end, print N tokens from the model")  # fmt: skip
    shown.add_argument("--check-replicas", type=whole_number, metavar="N",
        help="every N steps compare the devices' copies of each array")  # fmt: skip
    return p


def run(args: argparse.Namespace, group: Group | None = None) -> int:
    settings = Settings(with_base(gather_keys(args)))
    if settings.checkpoint.save_base_shapes:
        from jaxneox.train.base_shapes import save_base_shapes

        return save_base_shapes(settings)
    # jax starts below: the number of virtual CPU devices must be settled before
    from jaxneox.parallel.mesh import asked_sizes, final_sizes, prepare_devices

    asked = asked_sizes(args.mesh, settings.parallel)
    if group is not None and not args.dry_run:
        return run_together(args, settings, asked, group)
    prepare_devices(asked)
    import jax

    from jaxneox.train import session

    there = jax.device_count()
    if args.dry_run:  # nothing is computed: any number of devices will do
        there = max(there, math.prod(size for size in asked.values() if size > 0))
    sizes = final_sizes(asked, there)
    return session.run(args, settings, sizes)


def run_together(
    args: argparse.Namespace, settings: Settings, asked: dict[str, int], group: Group
) -> int:
    """Train as one of several processes, all of which were given the same command."""
    from jaxneox.hosts import join, messages, watch
    from jaxneox.parallel.mesh import final_sizes, prepare_devices

    prepare_devices(asked, group.count or 1)
    join.join(group)
    watch.start()
    import jax

    from jaxneox.train import session

    hint = "start all processes with the same command"
    messages.check_same("the configuration", settings.keys, hint)
    status = session.run(args, settings, final_sizes(asked, jax.device_count()))
    join.leave()
    return status


def gather_keys(args: argparse.Namespace) -> Keys:
    """Merge the keys of the YAML files, or of a run's folder, with the flags and `--set`."""
    keys = read_keys(
        args.paths or [DEFAULT], load=args.load, save=args.save, finetune=args.finetune
    )
    flags = {"save": args.save, "load": args.load, "finetune": args.finetune or None}
    keys |= {name: value for name, value in flags.items() if value is not None}
    return apply_set(keys, args.set)
