"""What is printed after training by preferences, and of reward models, runs as it is printed."""

import io
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jaxneox.serve.arguments import parser as serve_parser
from jaxneox.serve.command import load as load_to_serve
from tests.console.test_printed import Terminal, printed
from tests.infer.models import speaker
from tests.train.test_preferences import MODEL, data, start  # noqa: F401, fixtures
from tests.tune.models import write_model
from tests.tune.test_tune import pairs

pytestmark = pytest.mark.slow
pytest.importorskip("torch", reason="NeoX's files are written with torch")

Data = dict[str, dict[str, Any]]


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("convert.ours.next_command.STEPS", 2)
    (tmp_path / "words.jsonl").write_text('{"text": "a word"}\n{"text": "another"}\n')
    return Terminal(tmp_path)


def train(terminal: Terminal, kind: str, data: Data, start: Path) -> str:  # noqa: F811
    keys = MODEL | data[kind] | {"train-iters": 2, "train-batch-size": 8}
    (terminal.folder / f"{kind}.yml").write_text(yaml.safe_dump(keys))
    return terminal.run(f"train {kind}.yml --load {start} --finetune --save {kind} --mesh dp=1")


@pytest.mark.parametrize("kind", ["dpo", "rm", "kto", "reinforce"])
def test_a_run_that_began_with_the_weights_alone_goes_on(
    terminal: Terminal,
    kind: str,
    data: Data,  # noqa: F811
    start: Path,  # noqa: F811
) -> None:
    (further,) = printed(train(terminal, kind, data, start))
    assert f"{kind}/step_4 " in terminal.run(further)


def test_what_is_done_with_a_reward_model(
    terminal: Terminal,
    data: Data,  # noqa: F811
    start: Path,  # noqa: F811
) -> None:
    train(terminal, "rm", data, start)
    folder = Path(data["rm"]["pos-train-data-paths"][0]).parent
    for side, letter in (("chosen", "c"), ("rejected", "r")):
        for name in ("document", "label_document"):
            for end in ("bin", "idx"):
                linked = terminal.folder / f"pairs_{side}_{name}.{end}"
                linked.symlink_to(folder / f"{letter}_{name}.{end}")
    facts = json.loads(terminal.run("inspect rm --json"))
    lines = [use["command"] for use in facts["uses"] if "--finetune" in use["command"]]
    terminal.run("convert to-neox rm neox --no-verify")
    *_, values, training = printed(terminal.run("convert from-neox neox back --no-verify"))
    assert "evaluate back --rewards" in values and "pos-train-data-paths" in training
    assert "mean reward" in terminal.run(values)
    for line in (*printed("\n".join(lines)), training):
        terminal.run(line.replace("PREFIX", "pairs"))


@pytest.mark.parametrize(("kind", "options"), [("dpo", ""), ("kto", "--lora 2")])
def test_after_tuning_by_preferences(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, kind: str, options: str
) -> None:
    write_model(terminal.folder)
    rows: list[dict[str, Any]] = list(pairs(40))
    if kind == "kto":
        rows = [
            {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
            for row in rows
            for side in ("chosen", "rejected")
        ]
    (terminal.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = terminal.run(f"tune model rows.jsonl --save tuned --mesh dp=1 --batch 16 {options}")
    chat, serve, evaluate, convert = printed(out)
    monkeypatch.setattr("sys.stdin", io.StringIO("count 3\n"))
    terminal.run(f"{chat} --max-tokens 4")
    args = serve_parser().parse_args([*shlex.split(serve)[1:], "--slots", "1"])
    assert load_to_serve(args, "here", lambda doing: None).first.chat is not None
    terminal.run(f"{evaluate.partition(' --tasks')[0]} --perplexity words.jsonl")
    terminal.run(convert)
    facts = json.loads(terminal.run(f"inspect {shlex.split(serve)[1]} --json"))
    (go_on,) = (use["command"] for use in facts["uses"] if "goes on" in use["what"])
    (line,) = printed(go_on)
    terminal.run(line)  # from the best step, or there is nothing to do


def test_after_tuning_on_texts_without_a_chat_template(terminal: Terminal) -> None:
    """A model of bytes has none, so that it is not chat that comes next."""
    speaker(seq_length=64).save(terminal.folder / "model")
    rows = "".join(json.dumps({"text": f"count {i}"}) + "\n" for i in range(40))
    (terminal.folder / "rows.jsonl").write_text(rows)
    out = terminal.run("tune model rows.jsonl --save tuned --mesh dp=1 --batch 4 --lora 2")
    first, *_ = printed(out)
    assert first.startswith("generate tuned")
    assert "count" in terminal.run(f"{first} --prompt count --max-tokens 2")
