"""Renders conversations by a foreign chat template, within limits of time, memory and length."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxneox.errors import UserError
from jaxneox.templates.jinja import Rendered, TemplateFault

SECONDS = 10  # of a processor, to compile a template or for one rendering
MEMORY = 1 << 30  # bytes of address space of the process
LONGEST = 1 << 22  # characters of a rendering that may come from the template alone
TOGETHER = 1 << 28  # characters of all renderings of a conversation, one for each of its answers
PROGRAM = "from jaxneox.templates.child import main; main()"


@dataclass(frozen=True)
class ToRender:
    """A conversation, and which of its beginnings are to be rendered.

    Attributes:
        messages: its turns, of values that JSON has.
        beginnings: for each rendering the number of first turns, and whether to add the prompt
            for an answer.
        values: what else the template may ask for by name, such as tools.
    """

    messages: Sequence[Mapping[str, Any]]
    beginnings: Sequence[tuple[int, bool]]
    values: Mapping[str, Any] = field(default_factory=dict)


class LimitedTemplate:
    """A chat template in a process of its own, which lasts for all conversations.

    The process starts at once and is not waited for. One that was stopped at a limit is replaced
    when it is needed again. Not for several threads at a time.
    """

    def __init__(self, source: str, special: Mapping[str, str], origin: str = "") -> None:
        """Start to compile a template.

        Args:
            source: Jinja.
            special: the texts of special tokens by name, such as eos_token.
            origin: the file that it comes from, for errors.
        """
        self._origin = f"{origin}: " * bool(origin)
        self._setup = {
            "source": source,
            "special": dict(special),
            "seconds": SECONDS,
            "memory": MEMORY,
            "longest": LONGEST,
            "together": TOGETHER,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._compiled = False
        self._start()

    def check(self) -> None:
        """Wait until the template is compiled.

        Raises:
            UserError: it is not Jinja, or cannot be compiled within the limits.
        """
        if self._process is None:
            self._start()
        if not self._compiled:
            try:
                answer = self._answer()
            except TemplateFault as fault:
                raise self._wrong(f"the chat template cannot be compiled: {fault}") from fault
            if "wrong" in answer:
                raise self._wrong(answer["wrong"])
            self._compiled = True

    def render(self, conversations: Sequence[ToRender]) -> list[list[Rendered]]:
        """Render conversations.

        Raises:
            UserError: the template cannot be compiled.
            TemplateFault: it cannot render one of them, whose number the exception has.
        """
        self.check()
        lines = [_line_of(number, one) for number, one in enumerate(conversations)]
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer says why
            self._process.stdin.write(b"".join((b"%d\n" % len(lines), *lines)))
            self._process.stdin.flush()
        results: list[list[Rendered]] = []
        first: TemplateFault | None = None
        for number in range(len(lines)):
            try:
                answer = self._answer()
            except TemplateFault as fault:
                raise first or TemplateFault(str(fault), number) from fault
            if "fault" in answer:  # the other answers must be read all the same
                first = first or TemplateFault(answer["fault"], number)
            else:
                results.append(_texts(answer["rendered"]))
        if first is not None:
            raise first
        return results

    def _wrong(self, why: str) -> UserError:
        return UserError(f"{self._origin}{why}")

    def _start(self) -> None:
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            # -P: it imports nothing from the current folder, unless this process does
            [sys.executable, "-P", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": paths},
        )
        weakref.finalize(self, _end, self._process)
        assert self._process.stdin is not None
        self._compiled = False
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(self._setup).encode() + b"\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        """Read an answer; TemplateFault if the process has come to its end."""
        assert self._process is not None and self._process.stdout is not None
        if (line := self._process.stdout.readline()).endswith(b"\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        process, self._process = self._process, None
        status = _end(process)
        known = {
            -signal.SIGPROF: f"it takes longer than {self._setup['seconds']} seconds",
            -signal.SIGKILL: "its process was killed, maybe for want of memory",
        }
        raise TemplateFault(known.get(status, f"its process ended with status {status}"))


def _line_of(number: int, conversation: ToRender) -> bytes:
    try:
        asked = [conversation.messages, conversation.beginnings, conversation.values]
        return json.dumps(asked, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise TemplateFault(f"the conversation is not JSON: {reason}", number) from error


def _texts(rendered: Sequence[Any]) -> list[Rendered]:
    """Put together texts, of which each is said as what it adds to a part of the one before."""
    texts, before = [], ""
    for shared, rest, spans in rendered:
        before = before[:shared] + rest
        texts.append(Rendered(before, tuple((a, b) for a, b in spans)))
    return texts


def _end(process: subprocess.Popen[bytes]) -> int:
    """End a process, if it has not ended by itself, and return its status."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    if not process.stdout.closed and process.stdout.read(1):
        process.kill()
    process.stdout.close()
    return process.wait()
