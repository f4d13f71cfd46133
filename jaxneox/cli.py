"""The training command: arguments to a run, and a user's errors to one line."""

import argparse
import functools
import logging
import math
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxneox.config import apply_set, load_yaml, parallel_of
from jaxneox.errors import UserError
from jaxneox.hosts import parent
from jaxneox.hosts.group import Group, group_of
from jaxneox.places import is_address

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = ROOT / "configs" / "stdlib.yml"
Keys = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    hush()
    words = list(sys.argv[1:] if argv is None else argv)
    group = None
    try:
        args = parser().parse_args(words)
        group = group_of(args.coordinator, args.num_processes, args.process_id)
        if (group or args.restarts) and not args.dry_run and parent.CHILD not in os.environ:
            command = (sys.executable, str(ROOT / "train.py"), *words)
            sys.exit(parent.supervise(command, args.restarts, group.prefix if group else ""))
        sys.exit(run(args, group))
    except UserError as error:
        stop(f"error: {error}", error.status, group)
    except OSError as error:
        stop(f"error: {error.filename or 'a file'}: {error.strerror or error}", 2, group)
    except KeyboardInterrupt:
        stop("interrupted; what was saved before is whole", 128 + signal.SIGINT, group)
    except Exception:
        if group is None:
            raise
        from jaxneox.hosts.ending import crash

        crash()


@functools.cache
def hush() -> None:
    """What Orbax and TensorStore print of a failure that they also raise: one line is enough.

    Each write that fails after the first one is told to an event loop that Orbax has closed, and
    those that had not begun are told of where Python finds them.
    """
    warnings.filterwarnings("ignore", "coroutine 'async_serialize_from_host", RuntimeWarning)
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    tell = sys.unraisablehook

    def tell_other(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            tell(unraisable)

    sys.unraisablehook = tell_other


def stop(line: str, status: int, group: Group | None = None) -> NoReturn:
    if group is not None and "jaxneox.hosts.watch" in sys.modules:
        from jaxneox.hosts.ending import end_all

        end_all(line, status, group.prefix)
    print(f"{group.prefix if group else ''}{line}", file=sys.stderr)
    sys.exit(status)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see train.py --help")


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="train.py",
        description="Train a GPT-NeoX model in JAX from NeoX's own YAML files, on any mesh. "
        "Without a YAML it trains a small one on the Python standard library's source.",
    )
    add = p.add_argument
    add("paths", nargs="*", metavar="A.yml|RUN", help="YAMLs to merge, or a run to continue")
    add("--mesh", metavar="dp=2,tp=4", help="devices by axis; one may be -1, all that is left")
    add("--check-replicas", type=whole, metavar="N", help="every N steps compare devices' copies")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="any YAML key")
    add("--save", metavar="DIR", help="the run's folder (the YAML's key `save`)")
    add("--load", metavar="DIR", help="a run or checkpoint to start from (the key `load`)")
    add("--finetune", action="store_true", help="take the weights alone from what is loaded")
    add("--tokens", metavar="FILE.npz", help="train on exactly these batches")
    add("--allow-data-change", action="store_true", help="continue on other data than before")
    add("--coordinator", metavar="HOST:PORT", help="where process 0 of several listens; or auto")
    add("--num-processes", type=whole, metavar="N", help="how many make this run")
    add("--process-id", type=whole, metavar="I", help="which of them this is, from 0")
    add("--restarts", type=whole, default=0, metavar="N", help="start again up to N times")
    add("--sample", type=whole, metavar="N", help="at the end, N tokens from the model")
    add("--dry-run", action="store_true", help="print configuration, memory, what is sent; stop")
    return p


def whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def run(args: argparse.Namespace, group: Group | None = None) -> int:
    keys = gather_keys(args)
    # jax starts below: the number of virtual CPU devices must be settled before
    from jaxneox.parallel.mesh import asked_sizes, final_sizes, prepare_devices

    asked = asked_sizes(args.mesh, parallel_of(keys))
    if group is not None and not args.dry_run:
        return run_together(args, keys, asked, group)
    prepare_devices(asked)
    import jax

    from jaxneox.train import session

    there = jax.device_count()
    if args.dry_run:  # nothing is computed: any number of devices will do
        there = max(there, math.prod(size for size in asked.values() if size > 0))
    sizes = final_sizes(asked, there)
    return session.run(args, keys, sizes)


def run_together(args: argparse.Namespace, keys: Keys, asked: dict[str, int], group: Group) -> int:
    """As one of several processes, all of which were given the same command."""
    from jaxneox.hosts import join, talk, watch
    from jaxneox.parallel.mesh import final_sizes, prepare_devices

    prepare_devices(asked, group.count or 1)
    join.join(group)
    watch.start()
    import jax

    from jaxneox.train import session

    talk.check_same("the configuration", keys, "start all processes with the same command")
    status = session.run(args, keys, final_sizes(asked, jax.device_count()))
    join.leave()
    return status


def gather_keys(args: argparse.Namespace) -> Keys:
    """The merged keys of the YAMLs, or of a run's folder, then the flags' and `--set`'s."""
    folders = [path for path in args.paths if is_address(path) or Path(path).is_dir()]
    files = [path for path in args.paths if path not in folders]
    if len(folders) > 1:
        raise UserError(f"{' and '.join(folders)}: only one run can be continued at a time")
    keys = load_yaml(files if args.paths else [DEFAULT])
    if folders:
        if args.load:
            raise UserError(f"{folders[0]} and --load {args.load}: give one of the two")
        keys = run_keys(folders[0], args.finetune) | keys
        if "save" not in keys and not args.save:
            raise needs_place_to_save(folders[0])
    flags = {"save": args.save, "load": args.load, "finetune": args.finetune or None}
    keys |= {name: value for name, value in flags.items() if value is not None}
    return apply_set(keys, args.set)


def run_keys(folder: str, finetune: bool) -> Keys:
    """The configuration of a run or of one of its checkpoints, set to go on from there."""
    from jaxneox import checkpoint

    place = checkpoint.find(folder)
    newest = checkpoint.steps(place.run)[-1]
    keys = checkpoint.read_keys(place) | {"load": folder}
    for name in ("save", "iteration"):
        keys.pop(name, None)
    if finetune or place.step != newest:
        return keys  # branches off: the user says where to
    return keys | {"save": folder if Path(folder).resolve() == place.run else str(place.run)}


def needs_place_to_save(folder: str) -> UserError:
    return UserError(
        f"{folder}: going on from here would overwrite its run; give a folder with --save DIR"
    )
