"""`jaxneox serve CKPT`: a checkpoint behind an OpenAI-compatible HTTP endpoint."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jaxneox.console.execute import entry_point
from jaxneox.console.progress import warn
from jaxneox.console.text import visible
from jaxneox.errors import UserError
from jaxneox.serve.access import VARIABLE, is_loopback, key_in_environment, rules_at
from jaxneox.serve.arguments import parser

if TYPE_CHECKING:
    from jaxneox.serve.served import Served


def run(args: argparse.Namespace) -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"serving needs `pip install 'jaxneox[serve]'` ({error})") from error
    from jaxneox.serve.connections import file_limit
    from jaxneox.serve.scheduler import Scheduler
    from jaxneox.serve.server import address_of, bind, serve

    key = args.api_key or key_in_environment()
    listener = bind(args.host, args.port)
    address = address_of(listener)
    connections = file_limit(args.connections)
    if connections < args.connections:
        warn([f"--connections {args.connections}: there can be only {connections}, because this "
              "process may open few files; raise `ulimit -n`"])  # fmt: skip
    bound = listener.getsockname()[0]
    if key is None and not is_loopback(bound):
        warn([f"{address} is open to all who can reach this machine: anyone may use the model. Set "
              f"the environment variable {VARIABLE}, or listen at --host 127.0.0.1"])  # fmt: skip
    serve(
        listener,
        Scheduler(args.queue),
        args.timeout,
        rules_at(bound, args.allow_host, key),
        connections,
        load=lambda say: load(args, address, say),
        ready=lambda: tell(f"ready at {address}"),
    )


def load(args: argparse.Namespace, address: str, say: Callable[[str], None]) -> "Served":
    """Load the model and compile all its programs, with progress on the terminal and to `say`."""
    say(f"loading {args.checkpoint}")
    from jaxneox.loading import load_model
    from jaxneox.parallel.compilation import use_compilation_cache
    from jaxneox.serve.served import Served

    use_compilation_cache()
    model = load_model(args.checkpoint, step=args.step, mesh=args.mesh, compute=args.dtype)
    name = args.name or Path(args.checkpoint).resolve().name
    served = Served(name, model.release(), slots=args.slots, max_tokens=args.max_tokens)
    tell(
        f"{address} will serve {name} in {served.engine.rows} slots, "
        f"each with a context of {served.context:,} tokens"
    )
    began, programs = time.perf_counter(), []
    for what in served.engine.warm():
        say(f"compiling {what}")
        programs.append(what)
    tell(
        f"compiled {len(programs)} programs in {time.perf_counter() - began:.1f} s: "
        f"{', '.join(programs)}"
    )
    return served


def tell(line: str) -> None:
    print(visible(line), flush=True)


main = entry_point(parser, run)
