"""`jaxneox scores SRC…`: compare what NeoX computed with our merge and NeoX's own merges."""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import jaxneox
from convert import from_neox
from convert.neox.checkpoint import HISTORIC, NeoxModel
from convert.neox.merge import make_plan
from convert.neox.plan import MergeChoices
from convert.oracle import Forward
from convert.oracle import run as logits_of
from convert.proof.logits import log_softmax
from convert.readers.neox_open import open_neox
from jaxneox.console.execute import entry_point
from jaxneox.console.outputs import check_output
from jaxneox.console.parser import Parser
from jaxneox.console.progress import progress
from jaxneox.errors import UserError
from jaxneox.evaluate.corpus import Corpus, read
from jaxneox.evaluate.perplexity import Measured, measured
from jaxneox.evaluate.report import Report, show, write
from jaxneox.infer.scoring import Request, Scored

OURS = {"ours": MergeChoices("fold", "auto", "keep")}


def parser() -> Parser:
    p = Parser(
        "scores",
        "Perplexities of NeoX checkpoints: of the function that its parallel ranks computed, "
        "computed in float64; of our conversion; and of the merges that NeoX has had.",
        [
            ("neox_run --perplexity book.txt", "what each merge costs on a text"),
            ("a b --perplexity eval.npz --output scores.json", "two runs, the figures kept"),
        ],
    )
    p.add_argument("src", nargs="+", metavar="SRC", help="runs, or global_stepN folders")
    what = p.add_argument_group("what to score")
    what.add_argument("--perplexity", required=True, metavar="FILE",
        help="text, .jsonl, or .npz of tokens")  # fmt: skip
    what.add_argument("--tokenizer", type=Path, metavar="FILE",
        help="for text, instead of the YAML's")  # fmt: skip
    what.add_argument(
        "--limit", type=int, metavar="N", help="at most N documents, or rows of tokens"
    )
    p.add_argument_group("how to show it").add_argument("--output", metavar="FILE",
        help="all figures, as JSON")  # fmt: skip
    return p


def run(args: argparse.Namespace) -> int:
    if not Path(args.perplexity).is_file():
        raise UserError(f"{args.perplexity}: no such file; expected text, .jsonl or .npz")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: expected 1 or more")
    check_output(args.output)
    reports = [report for src in args.src for report in compared(src, args)]
    show(reports)
    if args.output:
        write(args.output, reports)
    return 0


def compared(src: str, args: argparse.Namespace) -> Iterator[Report]:
    """Score NeoX's own function, and then each merge."""
    name, ours = Path(src).name, []
    with tempfile.TemporaryDirectory() as folder:
        for title, choices in (OURS | HISTORIC).items():
            dst = Path(folder) / title.replace(" ", "_")
            ours.append(Report(f"{name}: {title}", [score(src, dst, choices, args)]))
    corpus = ours[0].files[0].corpus
    yield Report(f"{name}: NeoX, in float64", [measured(corpus, reference(src, corpus))], base=True)
    yield from ours


def score(src: str, dst: Path, choices: MergeChoices, args: argparse.Namespace) -> Measured:
    """Convert with one merge, and score the result by the JAX model in float32."""
    words = [src, str(dst), "--no-verify", "--norms", choices.norms, "--biases", choices.biases]
    words += ["--tokenizer", str(args.tokenizer)] if args.tokenizer else []
    nowhere = io.StringIO()  # each says what it costs, and here that is measured
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        from_neox.run(from_neox.parser().parse_args(words))
    model = jaxneox.load(str(dst))
    corpus = read(args.perplexity, model.config.model, model.tokenizer, None, args.limit)
    return measured(corpus, model.score(corpus.requests))


def reference(src: str, corpus: Corpus) -> Sequence[Scored]:
    """Score the ranks' own tensors, side by side, in float64."""
    source = open_neox(Path(src), step=None, config=None)
    forward = NeoxModel(source, make_plan(source, OURS["ours"])).forward
    with progress("NeoX's ranks in float64", len(corpus.requests), "windows") as advance:
        scores = []
        for request in corpus.requests:
            scores.append(scored(forward, request))
            advance(1)
    return scores


def scored(forward: Forward, request: Request) -> Scored:
    tokens: NDArray[np.int64] = np.asarray(request.tokens)
    logits_TV = logits_of(forward, tokens[None, :-1])[0, request.given - 1 :]
    labels = tokens[request.given :]
    logprobs = log_softmax(logits_TV)[np.arange(len(labels)), labels]
    return Scored(logprobs, logits_TV.argmax(-1) == labels)


main = entry_point(parser, run, foreign=True)

if __name__ == "__main__":
    main()
