"""The program that compiles and renders a template: lines of JSON in, lines of JSON out.

The first line has the template and the limits. After it, a line with a number is followed by so
many conversations, and each gets a line of answer. The system itself stops the process when a
rendering uses too much of a processor, even within one call of C.
"""

import json
import resource
import signal
import sys
from collections.abc import Mapping
from typing import IO, Any

from jaxneox.errors import UserError
from jaxneox.templates.jinja import Render, TemplateFault, renderer

ADDED = 16
"""A template may make so many characters of each of a conversation's, and some millions besides."""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to end
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    given, taken = sys.stdin.buffer, sys.stdout.buffer
    setup = json.loads(given.readline())
    memory = setup["memory"]
    signal.setitimer(signal.ITIMER_PROF, setup["seconds"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    try:
        render = renderer(setup["source"], setup["special"])
    except UserError as error:
        return answer(taken, {"wrong": str(error)})
    signal.setitimer(signal.ITIMER_PROF, 0)
    answer(taken, {})
    while count := given.readline():
        for line in [given.readline() for _ in range(int(count))]:
            try:
                answer(taken, {"rendered": rendered(render, line, setup)})
            except TemplateFault as fault:
                answer(taken, {"fault": str(fault)})
            except MemoryError:
                answer(taken, {"fault": f"it needs more than {memory >> 20:,} MiB of memory"})


def rendered(render: Render, line: bytes, limits: Mapping[str, Any]) -> list[Any]:
    """Render the beginnings of a conversation, each as what it adds to the one before."""
    messages, beginnings, values = json.loads(line)
    results, before, together = [], "", 0
    for count, prompt in beginnings:
        signal.setitimer(signal.ITIMER_PROF, limits["seconds"])
        try:
            text, spans = render(messages=messages[:count], add_generation_prompt=prompt, **values)
        finally:  # what is read and written after a fault is not the template's time
            signal.setitimer(signal.ITIMER_PROF, 0)
        if len(text) > limits["longest"] + ADDED * len(line):
            raise TemplateFault(
                f"it makes a text of {len(text):,} characters of a conversation of {len(line):,}"
            )
        together += len(text)
        if together > limits["together"]:
            raise TemplateFault(
                f"the beginnings of its {len(messages):,} messages are texts of more than "
                f"{limits['together']:,} characters together; cut it into several conversations"
            )
        shared = len(before) if text.startswith(before) else 0
        results.append((shared, text[shared:], spans))
        before = text
    return results


def answer(taken: IO[bytes], value: dict[str, Any]) -> None:
    taken.write(json.dumps(value, separators=(",", ":")).encode() + b"\n")
    taken.flush()
