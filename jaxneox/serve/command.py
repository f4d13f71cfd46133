"""`jaxneox serve CKPT`: a checkpoint behind an OpenAI-compatible HTTP endpoint."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jaxneox.console.execute import entry_point
from jaxneox.console.say import say, warn
from jaxneox.console.units import memory, seconds
from jaxneox.console.waiting import waiting
from jaxneox.errors import UserError
from jaxneox.serve.access import VARIABLE, is_loopback, key_in_environment, rules_at
from jaxneox.serve.adapters import adapters_of, run_name
from jaxneox.serve.arguments import parser
from jaxneox.templates.prompts import ChatPrompts, chat_prompts
from jaxneox.templates.source import template_in_file

if TYPE_CHECKING:
    from jaxneox.loading import LoadedModel
    from jaxneox.serve.models import ServedModels


def run(args: argparse.Namespace) -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"serving needs `pip install 'jaxneox[serve]'` ({error})") from error
    from jaxneox.serve.connections import file_limit
    from jaxneox.serve.scheduler import Scheduler
    from jaxneox.serve.server import address_of, bind, serve

    adapters_of(args.adapter, name_of(args))  # what is wrong with them comes at once
    if args.chat_template is not None:
        template_in_file(Path(args.chat_template))  # also what is wrong with it
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
        load=lambda status: load(args, address, status),
        ready=lambda: say(f"ready at {address}"),
    )


def load(args: argparse.Namespace, address: str, status: Callable[[str], None]) -> "ServedModels":
    """Load the models and compile all programs; progress goes to the terminal and `status`."""
    status(f"loading {args.checkpoint}")
    with waiting(f"loading {args.checkpoint}"):
        from jaxneox.parallel.compilation import use_compilation_cache
        from jaxneox.serve.models import ServedModels
        from jaxneox.serve.served import Served

        use_compilation_cache()
        loaded = load_all(args)
    every: list[Served] = []
    for name, model in loaded.items():
        chat = chat_of(model, args.chat_template)
        if len(every) >= args.caches:
            every[-1].engine.free()
        every.append(Served(name, model, slots=args.slots, max_tokens=args.max_tokens, chat=chat))
    models = ServedModels(every, args.caches)
    say(*first_lines(address, models))
    began, programs = time.perf_counter(), []
    with waiting("compiling all programs that answers may need"):
        for what in models.warm():
            status(f"compiling {what}")
            programs.append(what)
    taken = seconds(time.perf_counter() - began)
    each = ", ".join(dict.fromkeys(programs))
    say(f"compiled {len(programs)} programs in {taken}: {each}")
    return models


def load_all(args: argparse.Namespace) -> "dict[str, LoadedModel]":
    """Load what is served, by names: the model, and adapters that share its arrays."""
    from jaxneox.loading import load_model
    from jaxneox.loading.adapters import load_siblings

    name = name_of(args)
    asked = adapters_of(args.adapter, name)
    how = {"step": args.step, "mesh": args.mesh, "compute": args.dtype}
    if not asked.named:
        return {name: load_model(args.checkpoint, adapter=asked.alone, **how).release()}
    base, adapters = load_siblings(args.checkpoint, asked.named, **how)
    return {name: base, **adapters}


def name_of(args: argparse.Namespace) -> str:
    """Name the model for its clients."""
    return args.name or run_name(args.checkpoint)


def first_lines(address: str, models: "ServedModels") -> list[str]:
    """Say what is served, and what of it takes memory."""
    first, *others = models.every
    lines = [
        f"{address} will serve {first.name} in {first.engine.rows} slots, "
        f"each with a context of {first.context:,} tokens"
    ]
    if not others:
        return lines
    weights, cache = first.model.pools.weights_bytes, first.engine.cache_bytes
    lines.append(f"  {first.name}: {memory(weights)} of weights, {memory(cache)} for its slots")
    for one in others:
        more = memory(one.model.pools.weights_bytes - weights)
        lines.append(
            f"  {one.name}: {more} of weights beside those, {memory(one.engine.cache_bytes)} for "
            f"its slots, each with a context of {one.context:,} tokens"
        )
    if models.caches < len(models.every):
        lines.append(
            f"  {models.caches} of these {len(models.every)} have their slots at a time, and the "
            "others wait for an idle one's (--caches)"
        )
    return lines


def chat_of(model: "LoadedModel", given: str | None) -> ChatPrompts | str:
    """Make the prompts of conversations, or say why there are none.

    A file that was given must do; without one, the endpoint for texts works all the same.
    """
    try:
        chat = chat_prompts(model.tokenizer, None if given is None else Path(given))
    except UserError as error:
        if given is not None:
            raise
        return str(error)
    try:
        chat.check()
    except UserError as error:
        if given is not None:
            raise
        warn([f"/v1/chat/completions: {error}; give another with --chat-template FILE"])
        return str(error)
    return chat


main = entry_point(parser, run)
