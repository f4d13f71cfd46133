"""What the command is asked."""

import argparse

from jaxneox.data.commands.console import Parser
from jaxneox.infer.scoring import BUDGET


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m jaxneox.evaluate",
        description="Perplexity of files, and lm-eval's tasks, of any checkpoint on any mesh.",
    )
    p.add_argument("checkpoint", metavar="CKPT", help="a run, or one checkpoint's folder")
    p.add_argument(
        "--tasks",
        metavar="NAME[=FILE],…",
        help="lm-eval's, by name; with a file they are read from there, without a network. A FILE "
        "alone: .jsonl is lambada_openai, .txt wikitext",
    )
    p.add_argument(
        "--perplexity",
        nargs="+",
        default=[],
        metavar="FILE",
        help="text, .jsonl, or an .npz of token windows",
    )
    p.add_argument(
        "--compare", nargs="+", default=[], metavar="OTHER", help="checkpoints beside it"
    )
    p.add_argument("--output", metavar="FILE", help="all figures, as JSON")
    p.add_argument("--limit", type=int, metavar="N", help="documents of each task or file")
    p.add_argument("--num-fewshot", type=int, metavar="N", help="of tasks; the task's own number")
    p.add_argument("--stride", type=int, metavar="N", help="tokens scored by a window; all it has")
    p.add_argument("--cache", metavar="FILE", help="answers to tasks' requests, kept between runs")
    p.add_argument(
        "--batch-tokens", type=int, default=BUDGET, metavar="N", help=f"on a device; {BUDGET}"
    )
    p.add_argument(
        "--mesh", metavar="dp=2,tp=4", help="one device unless given; of a CPU its cores"
    )
    p.add_argument("--step", type=int, metavar="N", help="of a run; its newest unless given")
    p.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="float32"
    )
    return p
