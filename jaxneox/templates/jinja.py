"""A chat template rendered as transformers does, in jinja2's sandbox."""

import datetime
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxneox.errors import UserError

Span = tuple[int, int]
NOTHING = {"tools": None, "documents": None}
"""The names that transformers always gives to a template, also where there is nothing by them."""


class Rendered(NamedTuple):
    """A conversation's text, and where in it `{% generation %}` marks what a model writes."""

    text: str
    generated: tuple[Span, ...]


Render = Callable[..., Rendered]


class TemplateFault(Exception):
    """A template cannot render a conversation.

    Attributes:
        number: which of the conversations, counted from 0.
    """

    def __init__(self, reason: str, number: int = 0) -> None:
        super().__init__(reason)
        self.number = number


def renderer(source: str, special: dict[str, str]) -> Render:
    """Make a function that renders a template with what transformers gives to templates."""
    try:
        from jinja2 import TemplateError, ext, nodes
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise UserError("chat templates need `pip install jinja2`") from error

    blocks: list[str] = []  # of the rendering that is under way
    marks: list[tuple[int, str]] = []

    class Generation(ext.Extension):
        """{% generation %}…{% endgeneration %} marks what a model writes."""

        tags = {"generation"}  # noqa: RUF012, as jinja2 wants it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            marked = nodes.CallBlock(self.call_method("mark"), [], [], body)
            return marked.set_lineno(line)

        def mark(self, caller: Callable[[], str]) -> str:
            text = caller()
            marks.append((sum(map(len, blocks)), text))
            return text

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        template = environment.from_string(source)
    except Exception as error:  # Python's compiler has limits of its own
        raise UserError(f"the chat template is not Jinja: {_line(error)}") from error

    def render(**values: Any) -> Rendered:
        try:
            blocks.clear()
            marks.clear()
            for block in template.generate(NOTHING | special | values):
                blocks.append(block)
            text = "".join(blocks)
            text.encode()  # half a surrogate pair has no tokens
        except MemoryError:
            raise
        except Exception as error:  # a template may do anything
            raise TemplateFault(_line(error)) from error
        spans = tuple((at, at + len(part)) for at, part in marks)
        # what a template collects in a variable first is marked in another place
        whole = all(text[a:b] == part for (a, b), (_, part) in zip(spans, marks, strict=True))
        return Rendered(text, spans if whole else ())

    return render


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON; jinja's own would write < and & as HTML does."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _line(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    return " ".join(str(error).split())[:500] or type(error).__name__
