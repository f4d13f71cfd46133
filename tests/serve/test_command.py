"""The command: its first lines, its end by a signal, and what keeps it from starting."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from convert import from_neox
from jaxneox.data.companions import Companions
from jaxneox.errors import UserError
from jaxneox.serve.command import chat_of, main
from jaxneox.templates.prompts import ChatPrompts
from tests.infer.models import speaker
from tests.limits import PATIENCE
from tests.serve.client import Client

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "neox" / "pythia_mp2_drift"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve") / "small"
    with pytest.raises(SystemExit, match="0"):
        from_neox.main([str(GOLDEN), str(folder), "--no-verify"])
    return folder


@pytest.fixture
def command(checkpoint: Path) -> Iterator[subprocess.Popen[str]]:
    options = ("--port", "0", "--slots", "2", "--name", "tiny")
    with subprocess.Popen(
        (sys.executable, "-m", "jaxneox.serve", str(checkpoint), *options),
        cwd=ROOT,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        yield running
        running.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal(command: subprocess.Popen[str], number: signal.Signals) -> None:
    assert command.stdout is not None
    first, compiled, ready = (command.stdout.readline() for _ in range(3))
    found = re.match(
        r"http://127\.0\.0\.1:(\d+) will serve tiny in 2 slots, each with .* 64 tok", first
    )
    assert found, first
    assert re.match(r"compiled \d+ programs in [\d.]+ \w+: prompts of 32 tokens, ", compiled)
    assert ready.startswith("ready at http://127.0.0.1:")
    client = Client(int(found[1]), timeout=PATIENCE)
    body = client.complete(prompt=[[1, 2, 3]] * 2, temperature=0, max_tokens=5).json
    assert body["model"] == "tiny" and body["usage"]["completion_tokens"] == 10
    events = client.stream(prompt=[1, 2, 3], max_tokens=50)
    next(events)
    command.send_signal(number)
    assert len(list(events)) == 49  # what runs is finished
    assert command.wait(10) == 0
    assert command.stdout.read() == ""


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    return line


def test_an_address_that_others_reach_without_a_key_is_warned_of(
    capsys, tmp_path: Path, monkeypatch
) -> None:
    def printed(*words: str) -> str:
        with pytest.raises(SystemExit):
            main([str(tmp_path / "absent"), "--port", "0", *words])
        return capsys.readouterr().err

    monkeypatch.delenv("JAXNEOX_API_KEY", raising=False)
    assert "warning: http://0.0.0.0:" in printed("--host", "0.0.0.0")
    assert "warning" not in printed()
    assert "warning" not in printed("--host", "0.0.0.0", "--api-key", "se-cret")
    monkeypatch.setenv("JAXNEOX_API_KEY", "se-cret")
    said = printed("--host", "0.0.0.0")
    assert "warning" not in said and "se-cret" not in said


def test_what_keeps_it_from_starting_is_one_line(capsys, tmp_path: Path, monkeypatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert f"127.0.0.1:{taken}: cannot listen" in said(capsys, "run", "--port", taken)
    assert "cannot listen" in said(capsys, "run", "--host", "no.such.host.invalid")
    assert "not a port" in said(capsys, "run", "--port", "99999")
    assert "from 1 on" in said(capsys, "run", "--slots", "0")
    assert "seconds" in said(capsys, "run", "--timeout", "nan")
    assert "absent" in said(capsys, tmp_path / "absent", "--port", "0")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'jaxneox[serve]'" in said(capsys, "run")


def test_a_file_of_a_template_is_read_before_anything_is_loaded(tmp_path: Path, capsys) -> None:
    for content, says in ((None, "no such file"), (b"\xff", "cannot read the chat template")):
        path = tmp_path / "own.jinja"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(SystemExit, match="2"):
            main(["nowhere", "--port", "0", "--chat-template", str(path)])
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and f"{path}: " in err and says in err


def test_a_broken_template_of_the_checkpoint_leaves_the_rest(tmp_path: Path, capsys) -> None:
    model = speaker()
    assert "give one with --chat-template FILE" in str(chat_of(model, None))
    assert capsys.readouterr().err == ""  # most checkpoints have none
    model.tokenizer.companions = Companions(files={"chat_template.jinja": b"{% for %}"})
    assert "is not Jinja" in str(chat_of(model, None))
    err = capsys.readouterr().err
    assert err.startswith("warning: /v1/chat/completions: ") and err.count("\n") == 1
    (tmp_path / "own.jinja").write_text("{% for %}")
    with pytest.raises(UserError, match=r"own\.jinja: the chat template is not Jinja"):
        chat_of(model, str(tmp_path / "own.jinja"))
    (tmp_path / "own.jinja").write_text("fine")
    assert isinstance(chat_of(model, str(tmp_path / "own.jinja")), ChatPrompts)
