"""The command: the answers that Python gives to the rendered text, in a pipe and a terminal."""

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxneox.chat import keyboard
from jaxneox.chat.command import main
from jaxneox.data.companions import Companions
from jaxneox.loading import LoadedModel
from tests.infer.models import speaker
from tests.limits import PATIENCE

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    made = speaker(seq_length=128)
    made.tokenizer.companions = Companions(files={"chat_template.jinja": TEMPLATE.encode()})
    return made


@pytest.fixture(scope="module")
def run(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save(tmp_path_factory.mktemp("chat") / "run")


def call(
    capsys: pytest.CaptureFixture[str], *args: object, stdin: str = ""
) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def answered(model: LoadedModel, rendered: str, **options: object) -> str:
    (answer,) = model.generate([model.encode(rendered)], **{"max_tokens": 8, **options})
    return answer.text


def shown(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def test_a_pipe_is_a_conversation(model: LoadedModel, run: Path, capsys) -> None:
    first = answered(model, "s:Be.\nu:Hello\na:")
    second = answered(model, f"s:Be.\nu:Hello\na:{first}\nu:And\na:")
    again = answered(model, "s:Be.\nu:Hello\na:")
    words = (run, "--system", "Be.", "--max-tokens", 8)
    given = "Hello\n\n And \n/reset\nHello\n/exit\nnever\n"
    status, out, err = call(capsys, *words, stdin=given)
    assert (status, err) == (0, "the conversation begins anew\n")
    assert out == "".join(f"{shown(text)}\n" for text in (first, second, again))


def test_draws_and_ends(model: LoadedModel, run: Path, capsys) -> None:
    options = {"temperature": 0.9, "top_k": 40, "top_p": 0.9}
    words = ("--temperature", 0.9, "--top-k", 40, "--top-p", 0.9, "--seed", 7, "--max-tokens", 8)
    first = answered(model, "u:A\na:", seed=7, **options)
    second = answered(model, f"u:A\na:{first}\nu:B\na:", seed=8, **options)
    status, out, _ = call(capsys, run, *words, stdin="A\nB\n")
    assert (status, out) == (0, f"{shown(first)}\n{shown(second)}\n")
    free = answered(model, "u:A\na:")
    _, out, _ = call(capsys, run, "--stop", free[4], stdin="A\n")
    assert out == shown(free[: free.index(free[4])]) + "\n"


def test_ctrl_c_ends_the_answer_and_keeps_the_conversation(
    model: LoadedModel, run: Path, capsys, monkeypatch
) -> None:
    pieces = []
    say = keyboard.say

    def interrupted(text: str = "", end: str = "\n") -> None:
        say(text, end=end)
        pieces.append(text)
        if len(pieces) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(keyboard, "say", interrupted)
    before = signal.getsignal(signal.SIGINT)
    status, out, _ = call(capsys, run, "--max-tokens", 40, stdin="A\nB\n")
    assert status == 0 and signal.getsignal(signal.SIGINT) is before
    first = "".join(pieces[:3])
    second = answered(model, f"u:A\na:{first}\nu:B\na:", max_tokens=40)
    assert out == f"{shown(first)} …\n{shown(second)}\n"


@pytest.mark.parametrize(
    ("words", "stdin", "says"),
    [
        (
            [],
            "x" * 130,
            "error: the conversation has 135 tokens with this message, and the model's",
        ),
        ([], "\udcff", "error: the message: character 0"),
        (["--system", "\udcff"], "A", "error: --system: character 0"),
        (["--stop", ""], "A", "error: a stop string is empty"),
        (["--top-p", "2"], "A", "error: top_p 2.0: expected"),
        (["--max-tokens", "0"], "A", "error: argument --max-tokens: '0' is not a whole number"),
        (["--chat-template", "none"], "A", "error: none: no such file"),
    ],
)
def test_bad_input_is_one_line(run: Path, capsys, words: list, stdin: str, says: str) -> None:
    status, out, err = call(capsys, run, *words, stdin=stdin)
    assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith(says)


def test_what_was_answered_before_an_error_stays(model: LoadedModel, run: Path, capsys) -> None:
    status, out, err = call(capsys, run, "--max-tokens", 8, stdin=f"A\n{'x' * 130}\n")
    assert (status, out) == (2, shown(answered(model, "u:A\na:")) + "\n")
    assert err.count("\n") == 1


def test_a_checkpoint_without_a_template_names_the_option(tmp_path: Path, capsys) -> None:
    run = speaker(seq_length=128).save(tmp_path / "run")
    status, _, err = call(capsys, run, stdin="A\n")
    assert status == 2 and err.count("\n") == 1
    assert f"{run}: the checkpoint has no chat template" in err and "--chat-template FILE" in err
    (tmp_path / "own.jinja").write_text("hi")
    words = (run, "--chat-template", tmp_path / "own.jinja", "--max-tokens", 2)
    assert call(capsys, *words, stdin="A\n")[0] == 0
    (tmp_path / "own.jinja").write_text("{% for %}")
    status, _, err = call(capsys, *words, stdin="A\n")
    assert status == 2 and "own.jinja: the chat template is not Jinja" in err


@pytest.mark.slow
def test_a_terminal(run: Path, request: pytest.FixtureRequest) -> None:
    """Ctrl-C at the prompt and in an answer, an error that ends nothing, and Ctrl-D."""
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "jaxneox", "chat", str(run), "--max-tokens", "100"]
    talk = subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    request.addfinalizer(talk.kill)
    os.close(theirs)
    seen = ""

    def interrupt() -> None:
        talk.send_signal(signal.SIGINT)

    def until(there: Callable[[str], bool], again: Callable[[], None] = lambda: None) -> str:
        """Read until something is there; what may have been missed is done again."""
        nonlocal seen
        end = time.monotonic() + PATIENCE
        while not there(seen):
            assert time.monotonic() < end, seen
            if select.select([ours], [], [], 5)[0]:
                seen += os.read(ours, 4096).decode(errors="replace")
            else:
                again()
        found, seen = seen, ""
        return found

    until(lambda text: "/exit ends" in text and text.endswith("> "))
    interrupt()  # between the prompt and the reading of the keyboard Python loses it
    until(lambda text: "Ctrl-D ends the conversation" in text and text[-2:] == "> ", interrupt)
    os.write(ours, b"x" * 200 + b"\n")
    assert "error: the conversation has" in until(lambda text: text.endswith("> "))
    os.write(ours, b"A\n")
    until(lambda text: len(text) > 6)
    interrupt()
    until(lambda text: text.endswith("> "), interrupt)
    os.write(ours, b"\x04")
    assert talk.wait(PATIENCE) == 0
    os.close(ours)
