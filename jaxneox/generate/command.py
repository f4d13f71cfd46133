"""The command `jaxneox generate CKPT`: prompts from the line, a file or the keyboard, to text."""

import argparse
import sys

from jaxneox.config.schema import GenerationConfig
from jaxneox.console.execute import entry_point
from jaxneox.console.outputs import check_output
from jaxneox.console.waiting import waiting
from jaxneox.errors import UserError
from jaxneox.generate.arguments import conditions_of, parser, settings_of
from jaxneox.generate.interactive import converse
from jaxneox.generate.prompts import from_file, from_stream
from jaxneox.generate.write import Screen, write_lines
from jaxneox.infer.sampling import Sampling
from jaxneox.loading import LoadedModel, load_model
from jaxneox.parallel.compilation import use_compilation_cache

KINDS = ("unconditional", "input-file", "interactive", "precompute")


def run(args: argparse.Namespace) -> None:
    check(args)
    given = prompts_of(args)
    use_compilation_cache()
    with waiting(f"loading {args.checkpoint}"):
        model = load_model(
            args.checkpoint,
            step=args.step,
            mesh=args.mesh,
            compute=args.dtype,
            adapter=args.adapter,
        )
    if model.tokenizer is None:
        raise UserError(
            f"{args.checkpoint}: the checkpoint has no tokenizer; train or convert it with one, "
            "or give tokens to `jaxneox.load(…).generate` in Python"
        )
    settings = settings_of(args, model.config.keys)
    # refuse wrong values before any work
    Sampling(settings.temperature, settings.top_p, settings.top_k, args.seed)
    check_output(args.output or settings.output_file)
    if given is None and not args.interactive:
        given = prompts_by_keys(settings)
    if not settings.recompute:
        model.release()
    if given is None:
        converse(model, settings, args)
    else:
        answer(model, settings, args, given)


def check(args: argparse.Namespace) -> None:
    """Check what can be known before a checkpoint is loaded."""
    check_output(args.output)
    if args.rows < 1:
        raise UserError(f"--rows {args.rows}: expected 1 or more")


def prompts_of(args: argparse.Namespace) -> list[str] | None:
    """Return the options' prompts, each as often as asked for; None if no option gives any."""
    if args.input is not None:
        prompts = from_file(args.input, args.prompt_end or "\n")
    else:
        prompts = args.prompt
    return prompts and [prompt for prompt in prompts for _ in range(args.num_samples or 1)]


def prompts_by_keys(settings: GenerationConfig) -> list[str] | None:
    """Return the prompts that the YAML's text_gen_type means; None for the keyboard."""
    if settings.kind not in (*KINDS, None):
        kinds = ", ".join(KINDS)
        raise UserError(f"text_gen_type: found {settings.kind!r}, expected one of {kinds}")
    if settings.kind == "precompute":
        raise UserError(
            "text_gen_type: precompute generates nothing; "
            "`jaxneox evaluate CKPT --perplexity FILE` has log-probabilities"
        )
    if settings.kind == "input-file":
        return from_file(settings.input_file, settings.prompt_end)
    if settings.kind == "unconditional":
        return [""] * settings.samples
    if settings.kind == "interactive" or sys.stdin.isatty():
        return None
    return from_stream(sys.stdin, settings.prompt_end)


def answer(
    model: LoadedModel, settings: GenerationConfig, args: argparse.Namespace, prompts: list[str]
) -> None:
    output = args.output or settings.output_file
    with Screen(prompts, output) as screen:
        answers = model.generate(
            prompts,
            max_tokens=settings.max_tokens,
            **conditions_of(args),
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            seed=args.seed,
            rows=args.rows,
            recompute=settings.recompute,
            on_text=screen.text,
            on_answer=screen.answer,
        )
    if output:
        write_lines(output, prompts, answers)


main = entry_point(parser, run)
