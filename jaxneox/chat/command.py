"""The command `jaxneox chat CKPT`: a conversation in the terminal."""

import argparse
import sys
from pathlib import Path

from jaxneox.chat.arguments import parser
from jaxneox.chat.keyboard import answer_lines, converse
from jaxneox.chat.session import ChatSession
from jaxneox.console.execute import entry_point
from jaxneox.console.waiting import waiting
from jaxneox.errors import UserError
from jaxneox.infer.sampling import Sampling
from jaxneox.infer.stream import check_stop, check_text
from jaxneox.loading import load_model
from jaxneox.parallel.compilation import use_compilation_cache
from jaxneox.templates.prompts import chat_prompts
from jaxneox.templates.source import template_in_file


def run(args: argparse.Namespace) -> None:
    sampling = Sampling(args.temperature, args.top_p, args.top_k, args.seed)
    template = None if args.chat_template is None else Path(args.chat_template)
    check(args, template)
    use_compilation_cache()
    with waiting(f"loading {args.checkpoint}"):
        model = load_model(
            args.checkpoint,
            step=args.step,
            mesh=args.mesh,
            compute=args.dtype,
            adapter=args.adapter,
        )
    try:
        prompts = chat_prompts(model.tokenizer, template)
    except UserError as error:
        raise UserError(f"{args.checkpoint}: {error}") from error
    prompts.check()
    session = ChatSession(
        model.release(),
        prompts,
        sampling,
        system=args.system,
        max_tokens=args.max_tokens,
        stop=tuple(args.stop),
        stop_token_ids=tuple(args.stop_token_id),
    )
    if sys.stdin.isatty():
        converse(session)
    else:
        answer_lines(session)


def check(args: argparse.Namespace, template: Path | None) -> None:
    """Check what can be known before a checkpoint is loaded."""
    check_stop(args.stop)
    if args.system is not None:
        check_text(args.system, "--system")
    if template is not None:
        template_in_file(template)


main = entry_point(parser, run, interrupted="interrupted")
