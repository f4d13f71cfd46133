"""Text from outside is shown as text: on a terminal, in Markdown and in HTML."""

import ast
import io
import logging
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxneox.console import say
from jaxneox.console.execute import MessageFormatter
from jaxneox.console.text import (
    as_html,
    markdown,
    markdown_block,
    markdown_code,
    message,
    visible,
)
from jaxneox.errors import LONGEST_LINE

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("jaxneox", "convert")

EVIL = "weird <img src=x onerror=alert(1)>|`\n# H \x1b[2J **bold** [a](b) ‮ &lt;"


@given(st.text())
def test_a_message_is_one_visible_line_with_an_end(text: str) -> None:
    line = message(text)
    assert line.isprintable() and len(line) <= 10 * (LONGEST_LINE + 100)  # an escape has 10
    assert all(c.isprintable() or c in "\n\t" for c in visible(text))


def test_an_endless_message_keeps_its_begin_and_its_end() -> None:
    line = message("begin " + "x" * 10**6 + " end")
    assert line.startswith("begin ") and line.endswith(" end")
    assert " characters …] " in line and len(line) < LONGEST_LINE + 100


@given(st.text())
def test_markdown_has_no_markup_of_its_own(text: str) -> None:
    """Every character that steers is escaped, and a table has one cell of it."""
    line = markdown(text)
    assert line.isprintable() and "|" not in line
    assert not re.search(r"&(?!amp;|#124;)", line)
    assert not re.search(r"(?<!\\)(\\\\)*[`*\[\]<>#~]", line.replace("&#124;", ""))


def test_what_is_harmless_in_markdown_stays_as_it_is() -> None:
    assert markdown("config.json: residual_multiplier is 0.5, 3 x 4") == (
        "config.json: residual_multiplier is 0.5, 3 x 4"
    )
    assert markdown_code("layers.mlp.up") == "`layers.mlp.up`"


def test_code_cannot_leave_its_span_or_block() -> None:
    assert markdown_code(EVIL).count("`") == markdown_code(EVIL).count("\\`")
    block = markdown_block("a\n```\n# H\n````", "sh")
    assert block.startswith("`````sh\n") and block.endswith("\n`````")


@given(st.text())
def test_html_has_no_tags_of_its_own(text: str) -> None:
    seen: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: seen.append(tag)  # type: ignore[method-assign]
    parser.handle_comment = seen.append  # type: ignore[method-assign]
    parser.feed(f"<p>{as_html(text)}</p>")
    parser.close()
    assert seen == ["p"]


def test_all_that_is_printed_is_visible(capsys: pytest.CaptureFixture[str]) -> None:
    say.say(EVIL, "second")
    say.tell(EVIL)
    say.warn([EVIL])
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\\x1b[2J" in out and "‮" not in out + err
    assert len(err.splitlines()) == 2 and err.splitlines()[1].startswith("warning: weird")


def test_what_the_library_logs_is_one_visible_line() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(MessageFormatter())
    logger = logging.Logger("of this test")
    logger.addHandler(handler)
    logger.warning("%s:%d: a comma is missing", EVIL, 3)
    assert stream.getvalue().isprintable() is False  # its own line end
    assert stream.getvalue().rstrip("\n").isprintable()


def test_nothing_prints_but_the_functions_that_make_text_visible() -> None:
    """A `print` elsewhere would show what a file has written as it is."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "say.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id == "print"
    ]
    assert not found
