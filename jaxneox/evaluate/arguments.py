"""The options of the command."""

from jaxneox.console.model_options import add_model_options
from jaxneox.console.parser import Parser
from jaxneox.infer.scoring import BUDGET


def parser() -> Parser:
    p = Parser(
        "evaluate",
        "Measure the perplexity of files, and lm-eval's tasks, of any checkpoint on any mesh; of a "
        "reward model, how it values texts.",
        [
            ("runs/mine --perplexity book.txt", "how well a text is predicted"),
            (
                "runs/reward --rewards pairs.jsonl",
                "how often the chosen text has the higher reward",
            ),
            ("runs/mine --tasks lambada_openai,piqa --compare runs/other", "two side by side"),
        ],
    )
    p.add_argument("checkpoint", metavar="CKPT", help="a run, or one checkpoint's folder")
    what = p.add_argument_group("what to measure")
    what.add_argument("--tasks", metavar="NAME[=FILE],…",
        help="lm-eval's, by name; with a file they are read from there, without a network. A FILE "
        "alone: .jsonl is lambada_openai, .txt wikitext, .yaml a task of your own")  # fmt: skip
    what.add_argument("--include-path", nargs="+", default=[], metavar="DIR",
        help="folders of tasks of your own, as lm-eval's YAML; what their !function names "
        "is run")  # fmt: skip
    what.add_argument("--perplexity", nargs="+", default=[], metavar="FILE",
        help="text, .jsonl, or an .npz of token windows")  # fmt: skip
    what.add_argument("--rewards", metavar="FILE",
        help="of a reward model: .jsonl of texts (text; prompt, completion; messages), or of pairs "
        "(chosen, rejected)")  # fmt: skip
    what.add_argument("--limit", type=int, metavar="N", help="at most N documents of each")
    what.add_argument(
        "--num-fewshot", type=int, metavar="N", help="examples, instead of the task's own number"
    )
    what.add_argument("--stride", type=int, metavar="N",
        help="tokens scored in each window; by default the whole window")  # fmt: skip
    shown = p.add_argument_group("how to show it")
    shown.add_argument("--compare", nargs="+", default=[], metavar="OTHER",
        help="checkpoints beside it")  # fmt: skip
    shown.add_argument(
        "--output", metavar="FILE", help="all figures, as JSON; of --rewards each line with its own"
    )
    where = p.add_argument_group("where to compute")
    add_model_options(where, "devices by axis; one device by default, and of a CPU its cores")
    where.add_argument("--batch-tokens", type=int, default=BUDGET, metavar="N",
        help="tokens at a time on a device")  # fmt: skip
    where.add_argument("--cache", metavar="FILE",
        help="answers to tasks' requests, kept between runs")  # fmt: skip
    return p
