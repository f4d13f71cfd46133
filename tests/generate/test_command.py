"""The command: where prompts come from, where answers go, and what stops it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxneox.generate.command import main
from tests.limits import PATIENCE
from tests.train.runs import succeeds, write_yaml


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speaks")
    keys = {"train_iters": 2, "checkpoint_factor": 2, "seq_length": 48}
    keys |= {"max_position_embeddings": 48, "maximum_tokens": 7}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXNEOX_CACHE", str(folder / "cache"))
        succeeds(write_yaml(folder, **keys), "--mesh", "dp=1", "--save", folder / "run")
    return folder / "run"


def call(capsys: pytest.CaptureFixture[str], *args: object, stdin: str = "") -> tuple[int, str]:
    """-> exit status, and what was printed"""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return ended.value.code or 0, out + err


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_one_prompt_is_shown_with_its_text(run: Path, capsys) -> None:
    status, said = call(capsys, run, "--prompt", "the quick ")
    assert status == 0
    assert said.startswith("the quick ") and "1 answer, 7 tokens" in said  # the YAML's length


def test_neox_keys_of_a_yaml(run: Path, capsys, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(" the quick \n\nfoxes jump\n")
    (tmp_path / "generation.yml").write_text(
        f"""{{"text_gen_type": "input-file", "maximum_tokens": 5, "temperature": 1.0,
        "top_k": 4, "sample_input_file": "{tmp_path}/prompts.txt",
        "sample_output_file": "{tmp_path}/out.jsonl"}}"""
    )
    assert call(capsys, run, "--config", tmp_path / "generation.yml")[0] == 0
    first, second = lines(tmp_path / "out.jsonl")
    assert (first["context"], second["context"]) == ("the quick", "foxes jump")
    assert first["length"] == 5 and first["finished"] is False and first["message"] is None
    assert list(first) == ["context", "text", "length", "finished", "message", "duration_seconds"]


@pytest.mark.slow
def test_options_win_over_keys_and_seeds_repeat(run: Path, capsys, tmp_path: Path) -> None:
    keys = ("--set", "text_gen_type=unconditional", "--temperature", "1", "--seed", "3")
    for name in ("a", "b"):
        args = (*keys, "--num-samples", "3", "--max-tokens", "4", "--output", tmp_path / name)
        assert call(capsys, run, *args)[0] == 0
    a, b = lines(tmp_path / "a"), lines(tmp_path / "b")
    assert [x["text"] for x in a] == [x["text"] for x in b]
    assert [x["length"] for x in a] == [4, 4, 4]
    assert len({x["text"] for x in a}) == 3


def test_prompts_from_the_standard_input(run: Path, capsys) -> None:
    status, said = call(capsys, run, stdin="lazy dogs\nover\n")
    assert status == 0 and "--- 2 of 2 ---\nover" in said


def test_a_conversation(run: Path, capsys) -> None:
    long = "x" * 60
    stdin = f"the quick\n brown END\n{long}END\nfoxes END\n"
    status, said = call(capsys, run, "--interactive", "--prompt-end", "END", stdin=stdin)
    assert status == 0
    assert "60 tokens: the model's context is 48" in said  # and the conversation goes on
    assert said.count("Context prompt >>> ") == 4


def test_an_answer_of_no_tokens_says_so_as_neox_does(run: Path, capsys, tmp_path: Path) -> None:
    from jaxneox.generate.write import write_lines
    from jaxneox.infer.generate import Answer

    write_lines(str(tmp_path / "out"), ["x"], [Answer([1], text="", finished="eod")])
    (line,) = lines(tmp_path / "out")
    assert line["text"] is None and line["finished"] and "did not start" in line["message"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--prompt", "x", "--temperature", "-1"], "temperature: found -1.0"),
        (["--prompt", "x", "--top-p", "2"], "top_p: found 2.0"),
        (["--prompt", "x", "--seed", "-1"], "seed -1"),
        (["--prompt", "x" * 48], "the prompt has 48 tokens: the model's context is 48"),
        (["--prompt", "x", "--mesh", "tp=3"], "tp=3 does not divide"),
        (["--input", "nowhere.txt"], "nowhere.txt: cannot be read (No such file"),
        (["--set", "text_gen_type=precompute"], "evaluate CKPT --perplexity"),
        (["--set", "text_gen_type=sing"], "text_gen_type"),
        (["--set", "text_gen_type=input-file"], "sample_input_file is missing"),
        (["--prompt", "x", "--input", "y"], "not allowed with"),
        (["--prompt", "x", "--rows", "0"], "--rows 0: expected 1 or more"),
        (["--prompt", "x", "--output", "no/where.jsonl"], "no is not a folder"),
        (["--prompt", "x", "--output", "."], "it is a folder"),
        (["--prompt", "x\udcff"], "a prompt: character 1"),
        (["--prompt", "x", "--stop", "\udcff"], "a stop string: character 0"),
        (["--prompt", "x", "--prompt", "x" * 48], "prompt 2 of 2 has 48 tokens"),
        ([], "the standard input: no prompt"),
    ],
)
def test_wrong_input_is_one_line(run: Path, capsys, args: list[str], says: str) -> None:
    status, said = call(capsys, run, *args)
    assert status == 2
    assert says in said and said.count("\n") == 1 and said.startswith("error: ")


def test_no_tokenizer(run: Path, capsys, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run, tmp_path / "mute")
    shutil.rmtree(tmp_path / "mute" / "tokenizer")
    status, said = call(capsys, tmp_path / "mute", "--prompt", "x")
    assert status == 2 and "has no tokenizer" in said and said.count("\n") == 1


@pytest.mark.slow
def test_a_terminal_and_a_keyboard_that_know_no_utf8(run: Path, tmp_path: Path) -> None:
    """In a process of its own: the streams are Python's."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "JAXNEOX_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "jaxneox.generate", str(run)]
    said = subprocess.run(
        [*command, "--prompt", "caf\xe9"], env=environment, capture_output=True, timeout=PATIENCE
    )
    assert said.returncode == 0 and rb"caf\xe9" in said.stdout
    said = subprocess.run(
        command, env=environment, input=b"x\xff", capture_output=True, timeout=PATIENCE
    )
    assert said.returncode == 2 and said.stderr.startswith(b"error: ")
    assert said.stderr.count(b"\n") == 1 and b"character 1 is no whole one" in said.stderr
