"""The command: data to datasets, what is printed, the best checkpoint, and going on."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import jaxneox
from jaxneox import checkpoint
from jaxneox.data import load_tokenizer
from jaxneox.data.indexed import IndexedDataset
from jaxneox.tune.command import main
from jaxneox.tune.watching import Watch
from tests.train.runs import Outcome, metrics
from tests.tune.models import write_model, write_talks

SHORT = ("--mesh", "dp=1", "--epochs", "2")


def command(*words: object) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            return Outcome(int(end.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("the command ended without a status")


def refused(*words: object) -> str:
    outcome = command(*words)
    lines = outcome.err.splitlines()
    assert outcome.code == 2 and len(lines) == 1, outcome
    return lines[0].removeprefix("error: ")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    write_model(folder)
    write_talks(folder / "talks.jsonl")
    return folder


@pytest.fixture(scope="module")
def tuned(place: Path) -> tuple[Path, str]:
    save = place / "tuned"
    done = command(place / "model", place / "talks.jsonl", "--save", save, "--lora", 4, *SHORT,
                   "--lr", 0.02)  # fmt: skip
    assert done.code == 0, done
    return save, done.out


def test_what_it_says_and_leaves(place: Path, tuned: tuple[Path, str]) -> None:
    save, out = tuned
    assert "conversations to train on" in out and "the chat template is plain" in out
    keys = yaml.safe_load((save / "tune.yml").read_text())
    assert keys["lora"] == {"rank": 4, "base": str(place / "model")}
    assert "\ntrain_batch_size: " in out and "lora: {rank: 4, base:" in out
    losses = {row["step"]: row["valid_loss"] for row in metrics(save) if "valid_loss" in row}
    assert len(losses) >= 8 and min(losses.values()) < 0.8 * next(iter(losses.values()))
    best = min(losses, key=lambda step: losses[step])
    first = next(iter(losses))
    assert f" at step {first} and " in out
    assert f" at step {best}, the best of {len(losses)} evaluations\n" in out
    kept = checkpoint.steps(save)
    assert best in kept and len(kept) <= 3 and kept[-1] == keys["train_iters"]
    named = save if best == kept[-1] else save / f"step_{best}"
    assert f"jaxneox chat {named}\n" in out and f"to-peft {named} {named}-peft" in out


def test_only_the_answers_are_learned(tuned: tuple[Path, str]) -> None:
    save, _ = tuned
    model = jaxneox.load(save)
    assert model.tokenizer is not None
    for split in ("train", "valid"):
        tokens = IndexedDataset(save / f"data/{split}_document")
        labels = IndexedDataset(save / f"data/{split}_label_document")
        assert len(tokens) == len(labels) > 1
        for i in range(len(tokens)):
            row, label = tokens.get(i), labels.get(i)
            learned = label != -100
            np.testing.assert_array_equal(row[learned], label[learned])
            text = model.tokenizer.decode(row.tolist())
            name = text.split()[4]
            answer = model.tokenizer.decode(row[learned].tolist())
            assert answer.startswith(f" {name} saw ") and "Tell" not in answer
    sizes = [len(IndexedDataset(save / f"data/{split}_document")) for split in ("train", "valid")]
    assert sum(sizes) == 120


def test_the_tuned_model_has_the_template(tuned: tuple[Path, str]) -> None:
    save, _ = tuned
    tokenizer = jaxneox.load(save).tokenizer
    assert tokenizer is not None and "chat_template.jinja" in tokenizer.companions.files


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(place: Path, tuned: tuple[Path, str]) -> None:
    save, _ = tuned
    words = (place / "model", place / "talks.jsonl", "--lora", 4, *SHORT, "--lr", 0.02)
    first = command(*words, "--save", place / "parts", "--set", "exit-interval=9")
    assert first.code == 0 and checkpoint.steps(place / "parts")[-1] == 9
    assert "stopped at step 9 of 58; the same command goes on" in first.out
    again = command(*words, "--save", place / "parts")
    assert "going on with" in again.out
    assert metrics(place / "parts") == metrics(save)


def test_other_words_do_not_go_on_with_a_run(place: Path, tuned: tuple[Path, str]) -> None:
    save, _ = tuned
    words = (place / "model", place / "talks.jsonl", "--save", save, *SHORT)
    says = refused(*words, "--lora", 8)
    assert f"{save}: was begun by `jaxneox tune " in says
    assert "--lora 4 --epochs 2.0 --lr 0.02`; go on with the same words" in says
    same = command(*words, "--lora", 4, "--lr", 0.02, "--stop-early", 9, "--dry-run")
    assert same.code == 0 and "going on with" in same.out


def test_the_run_of_another_command_is_left_alone(place: Path) -> None:
    model = place / "model"
    before = sorted(model.rglob("*"))
    says = refused(model, place / "talks.jsonl", "--save", model, *SHORT)
    assert says.startswith(f"{model}: holds a run that `jaxneox tune` did not begin")
    assert sorted(model.rglob("*")) == before


@pytest.mark.slow
def test_prompts_and_texts(place: Path) -> None:
    pairs = [{"prompt": f"count {i}", "completion": f"{i} {i + 1}"} for i in range(60)]
    (place / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in pairs))
    (place / "texts").mkdir()
    for i in range(8):
        (place / "texts" / f"{i}.txt").write_text("Anna saw the sea.\n" * (40 + i))
    for data, says in (("pairs.jsonl", "prompts with completions"), ("texts", "texts")):
        held = ("--hold-out", 0.3)
        save = place / f"of-{data}"
        words = (place / "model", place / data, "--save", save, *SHORT, *held, "--chat-template")
        done = command(*words, "chatml")
        assert done.code == 0, done
        assert says in done.out and "convert to-hf" in done.out
        assert len(checkpoint.read_shapes(checkpoint.find(save))) > 10  # a whole model


def test_a_dry_run_trains_nothing(place: Path) -> None:
    save = place / "dry"
    done = command(place / "model", place / "talks.jsonl", "--save", save, "--dry-run", *SHORT)
    assert done.code == 0 and "train_batch_size" in done.out and "Next" not in done.out
    assert (save / "tune.yml").is_file() and not checkpoint.steps(save)


def test_before_any_step_all_is_chosen_anew(place: Path) -> None:
    """So that a dry run can be repeated with other options, and other data."""
    data = write_talks(place / "some.jsonl", 40)
    words = (place / "model", data, "--save", place / "anew", "--dry-run", *SHORT)
    first = command(*words, "--chat-template", "chatml")
    assert first.code == 0 and "the chat template is chatml" in first.out
    write_talks(data, 80)
    again = command(*words, "--length", 32)
    assert again.code == 0 and "the chat template is plain" in again.out
    assert "going on" not in again.out and "\nseq_length: 32\n" in again.out
    count = sum(int(n) for n in re.findall(r"(\d+) (?:conversations|held)", again.out))
    assert count == 80


def test_the_models_own_template_after_another(place: Path, tmp_path: Path) -> None:
    """What an earlier attempt has left in the folder is not used."""
    shutil.copytree(place / "model", tmp_path / "model")
    own = "{% for message in messages %}<{{ message.content }}>{% endfor %}"
    tokenizer = tmp_path / "model/tokenizer"
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"chat_template": own}))
    description = json.loads((tokenizer / "jaxneox_tokenizer.json").read_text())
    description["companions"] = ["tokenizer_config.json"]
    (tokenizer / "jaxneox_tokenizer.json").write_text(json.dumps(description))
    save = tmp_path / "run"
    words = (tmp_path / "model", place / "talks.jsonl", "--save", save, "--dry-run", *SHORT)
    other = command(*words, "--chat-template", "chatml")
    assert "the chat template is chatml" in other.out
    done = command(*words)
    assert done.code == 0 and "the chat template is the model's own" in done.out
    assert not (save / "tokenizer/chat_template.jinja").exists()
    ids = IndexedDataset(save / "data/train_document").get(0).tolist()
    assert load_tokenizer(save / "tokenizer").decode(ids).startswith("<Tell me of ")


def test_the_best_and_when_to_stop(tmp_path: Path) -> None:
    stopped: list[int] = []

    class Step:
        def __init__(self, step: int, loss: float | None):
            self.step = step
            self.figures = {} if loss is None else {"valid_loss": loss}

        def stop(self) -> None:
            stopped.append(self.step)

    watch = Watch(tmp_path, patience=2)
    for step, loss in enumerate((3.0, None, 2.0, 2.5, float("nan"), 2.2, 2.1), 1):
        if not stopped:
            watch(Step(step, loss))  # type: ignore[arg-type]
    assert watch.best == 3 and stopped == [6]
    assert list(watch.losses) == [1, 3, 4, 6]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"chosen": "a", "rejected": "b"}', "preferences cannot be trained yet"),
        ('{"prompt": "a", "completion": "b", "label": true}', "preferences cannot be trained yet"),
        ('{"question": "a"}', "has the keys question, expected conversation or messages"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "no documents to train on"),
    ],
)
def test_data_that_cannot_be_used(content: str, says: str, place: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(content + "\n")
    assert says in refused(place / "model", tmp_path / "data.jsonl", "--save", tmp_path / "x")


def test_what_is_refused(place: Path, tuned: tuple[Path, str], tmp_path: Path) -> None:
    data, save = place / "talks.jsonl", ("--save", tmp_path / "x")
    for option, value, says in (
        ("--hold-out", 1.5, "'1.5' is not a share between 0 and 1"),
        ("--epochs", "nan", "'nan' is not a number above 0"),
        ("--lr", "inf", "'inf' is not a number above 0"),
        ("--lora", 0, "'0' is not a whole number from 1 on"),
    ):
        assert f"{option}: {says}" in refused(place / "model", data, *save, option, value)
    assert "is an adapter" in refused(tuned[0], data, *save)
    assert "nowhere" in refused(tmp_path / "nowhere", data, *save)
    assert "no such file" in refused(place / "model", tmp_path / "nothing.jsonl", *save)
    assert "the model has 64 positions" in refused(place / "model", data, *save, "--length", 99)
