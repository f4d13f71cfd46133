"""The options of the command."""

from jaxneox.console.model_options import add_model_options
from jaxneox.console.parser import Parser, count, whole_number


def parser() -> Parser:
    p = Parser(
        "chat",
        "Talk with a model in the terminal, by its own chat template. /exit or Ctrl-D ends the "
        "conversation, /reset begins it anew, and Ctrl-C ends an answer. Without a terminal each "
        "line of the standard input is a message.",
        [
            ("runs/mine", "greedily"),
            ('runs/mine --system "Answer in one sentence." --temperature 0.7', "with a task"),
        ],
    )
    p.add_argument("checkpoint", metavar="CKPT", help="a run, or one checkpoint's folder")
    what = p.add_argument_group("the conversation")
    what.add_argument("--system", metavar="TEXT", help="what the model is told first")
    what.add_argument("--chat-template", metavar="FILE",
        help="Jinja, in place of the checkpoint's own template")  # fmt: skip
    how = p.add_argument_group("how to answer")
    how.add_argument("--max-tokens", type=count, metavar="N",
        help="length of an answer; by default all that the context has room for")  # fmt: skip
    how.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy")
    how.add_argument("--top-p", type=float, default=0.0, metavar="P",
        help="only the likeliest tokens that add up to P; 0 is no limit")  # fmt: skip
    how.add_argument("--top-k", type=int, default=0, metavar="K",
        help="only the K most likely tokens; 0 is no limit")  # fmt: skip
    how.add_argument("--stop", action="append", default=[], metavar="TEXT",
        help="text that ends an answer; may be repeated")  # fmt: skip
    how.add_argument("--stop-token-id", action="append", default=[], type=whole_number, metavar="N",
        help="a token that ends an answer; may be repeated")  # fmt: skip
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the first answer")
    where = p.add_argument_group("where to compute")
    add_model_options(where)
    return p
