"""Pairs, rated answers and completions: recognized by their keys, each error with its line."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data import build_tokenizer
from jaxneox.data.indexed import IndexedDataset
from jaxneox.preprocess import output
from tests.preprocess.command import CHAR, made, status_of
from tests.preprocess.test_chat import CHATML, write
from tests.preprocess.test_resume import Killed
from tests.preprocess.test_rewards import call, golden, listed, tokenizer, values

__all__ = ["golden"]  # a fixture

END = 256


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def says(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


PAIR = {"prompt": "one?", "chosen": "yes", "rejected": "no"}
RATED = {"prompt": "one?", "completion": "yes", "label": True}
MANY = {"prefix": "1 + 1 =", "completions": [" 2", " 3"], "rewards": [1.0, -0.5]}
HH = {"chosen": "\n\nHuman: one?\n\nAssistant: I say yes",
      "rejected": "\n\nHuman: one?\n\nAssistant: I say no"}  # fmt: skip


def run(tmp_path: pathlib.Path, rows: list[Any], *more: str) -> int:
    return call(write(tmp_path / "in.jsonl", rows), tmp_path / "x", *more)


def text_of(tokens: list[int]) -> str:
    """Bytes as the tests' tokenizer names them, and `$` for the end."""
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    word = "".join("$" if i == END else alphabet[i] for i in tokens)
    return word.replace("Ġ", " ").replace("Ċ", "\n")


def learned(prefix: pathlib.Path, name: str) -> list[tuple[str, str]]:
    """The text of each document, and what of it is learned."""
    tokens, labels = (listed(values(prefix, each)) for each in (name, f"{name}_label"))
    for document, label in zip(tokens, labels, strict=True):
        pairs = list(zip(document, label, strict=True))
        assert all(other in (-100, token) for token, other in pairs)
    masked = [[i for i in label if i != -100] for label in labels]
    return list(zip(map(text_of, tokens), map(text_of, masked), strict=True))


def chatml(*turns: dict[str, str]) -> str:
    return "".join(f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in turns)


ASKED = chatml(user("one?")) + "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"prompt": [user("one?")], "chosen": [says("yes")], "rejected": [says("no")]},
        {"prompt": [user("one?")], "chosen": "yes", "rejected": "no"},
        {"chosen": [user("one?"), says("yes")], "rejected": [user("one?"), says("no")]},
        {  # UltraFeedback's rows
            "prompt": "one?", "chosen": [user("one?"), says("yes")],
            "rejected": [user("one?"), says("no")], "messages": [user("one?"), says("yes")],
        },
    ],
)  # fmt: skip
def test_pairs(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], row: Any) -> None:
    assert run(tmp_path, [row]) == 0
    keys = ", ".join(key for key in ("prompt", "chosen", "rejected") if key in row)
    assert f"note: pairs are read from {keys}" in capsys.readouterr().err
    for side, answer in (("chosen", "yes"), ("rejected", "no")):
        rest = f"{answer}<|im_end|>\n$"
        assert learned(tmp_path / "x", side) == [(ASKED + rest, rest)]
    assert len(made(tmp_path / "x")) == 4 * 3


def test_pairs_keep_their_numbers_and_equal_ones_are_counted(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [PAIR | {"chosen": f"{i}", "rejected": f"-{i}" if i % 3 else f"{i}"} for i in range(7)]
    assert run(tmp_path, rows) == 0
    sides = [learned(tmp_path / "x", side) for side in ("chosen", "rejected")]
    assert [one.split("<")[0] for _, one in sides[0]] == [str(i) for i in range(7)]
    assert [one.split("<")[0] for _, one in sides[1]] == ["0", "-1", "-2", "3", "-4", "-5", "6"]
    assert "3 of 7 pairs have the same answer on both sides" in capsys.readouterr().err


def test_what_comes_before_the_answers_is_the_prompt(tmp_path: pathlib.Path) -> None:
    """Earlier answers too; and after the same beginning an answer may have several turns."""
    begin = [user("one?"), says("so"), user("two?")]
    sides = {"chosen": [*begin, says("a"), user("b"), says("c")], "rejected": [*begin, says("d")]}
    assert run(tmp_path, [sides]) == 0
    assert learned(tmp_path / "x", "chosen")[0][1] == "a<|im_end|>\nc<|im_end|>\n$"
    assert learned(tmp_path / "x", "rejected")[0][1] == "d<|im_end|>\n$"
    assert run(tmp_path, [sides], "--overwrite", "--only-last") == 0
    assert learned(tmp_path / "x", "chosen")[0][1] == "c<|im_end|>\n$"


def test_pairs_of_texts_without_a_prompt(tmp_path: pathlib.Path) -> None:
    """Those of Anthropic's HH: what they begin with, up to a whole word."""
    assert run(tmp_path, [HH]) == 0
    for side in ("chosen", "rejected"):
        begin, answer = HH[side].rsplit(" ", 1)
        assert learned(tmp_path / "x", side) == [(f"{begin} {answer}$", f" {answer}$")]


def test_one_end_where_the_template_has_it(tmp_path: pathlib.Path) -> None:
    template = tmp_path / "plain.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
        "{% endif %}{% endfor %}"
    )
    assert run(tmp_path, [PAIR], "--chat-template", str(template)) == 0
    assert learned(tmp_path / "x", "chosen") == [("one?yes$", "yes$")]


def test_pairs_for_a_reward_model(tmp_path: pathlib.Path) -> None:
    assert run(tmp_path, [PAIR], "--for-rm") == 0
    for side, answer in (("chosen", "yes"), ("rejected", "no")):
        assert learned(tmp_path / "x", side) == [(f"{ASKED}{answer}<|im_end|>\n$$", "$")]
    assert run(tmp_path, [HH], "--for-rm", "--overwrite") == 0
    assert learned(tmp_path / "x", "chosen") == [(HH["chosen"] + "$$", "$")]


@pytest.mark.parametrize("flags", [[], ["--kind", "pairs"]])
def test_pairs_are_those_of_neox(
    golden: pathlib.Path, tmp_path: pathlib.Path, flags: list[str]
) -> None:
    """Its rows share all but the last turn, so that they are its files with --only-last."""
    words = ["--input", str(golden / "data/pairs.jsonl"), "--output-prefix", str(tmp_path / "dpo")]
    words += ["--tokenizer-path", str(golden), "--workers", "1"]
    assert status_of([*words, *flags]) == 0
    written = [path for path in tmp_path.glob("dpo_*") if path.suffix != ".sha256"]
    assert len(written) == 8
    for path in written:
        assert path.read_bytes() == (golden / "data" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("name", "key", "flags"),
    [("kto", "reward", []), ("ktoi", "score", []), ("kto", "reward", ["--binary-reward"])],
)
def test_rated_conversations_are_those_of_neox(
    golden: pathlib.Path, tmp_path: pathlib.Path, name: str, key: str, flags: list[str]
) -> None:
    words = ["--input", str(golden / "data/sft.jsonl"), "--output-prefix", str(tmp_path / "x")]
    words += ["--tokenizer-path", str(golden), "--workers", "1", "--kind", "rated"]
    assert status_of([*words, "--reward-key", key, *flags]) == 0
    for end in ("document", "label_document", "reward_document"):
        for suffix in (".bin", ".idx"):
            ours = (tmp_path / f"x_text_{end}{suffix}").read_bytes()
            assert ours == (golden / f"data/{name}_messages_{end}{suffix}").read_bytes()


@pytest.mark.parametrize(
    "row",
    [RATED, {"messages": [user("one?"), says("yes")], "label": True},
     {"prompt": [user("one?")], "completion": [says("yes")], "label": True}],
)  # fmt: skip
def test_rated(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], row: Any) -> None:
    labels = [True, False, 0.25, -3]
    assert run(tmp_path, [row | {"label": label} for label in labels]) == 0
    assert "note: rated are read from" in capsys.readouterr().err
    rest = "yes<|im_end|>\n$"
    assert learned(tmp_path / "x", "text") == [(ASKED + rest, rest)] * 4
    assert listed(values(tmp_path / "x", "text_reward")) == [[1.0], [-1.0], [0.25], [-3.0]]
    assert run(tmp_path, [row | {"label": label} for label in (True, False)], "--overwrite") == 0
    rewards = values(tmp_path / "x", "text_reward")
    assert rewards.dtype == np.int32 and listed(rewards) == [[1], [-1]]


@pytest.mark.parametrize("flags", [[], ["--kind", "completions"]])
def test_completions(tmp_path: pathlib.Path, flags: list[str]) -> None:
    chat = {"prefix": [user("one?")], "completions": ["yes", ""], "rewards": [2, True]}
    assert run(tmp_path, [MANY, chat, MANY], *flags) == 0
    rest = ["yes<|im_end|>\n$", "<|im_end|>\n$"]
    texts = [("1 + 1 = 2$", " 2$"), ("1 + 1 = 3$", " 3$")]
    assert learned(tmp_path / "x", "text") == [
        *texts, (ASKED + rest[0], rest[0]), (ASKED + rest[1], rest[1]), *texts,
    ]  # fmt: skip
    assert listed(values(tmp_path / "x", "text_reward")) == [[1], [-0.5], [2], [1], [1], [-0.5]]
    prompts = values(tmp_path / "x", "text_prompt")
    assert prompts.dtype == np.int32
    assert listed(prompts) == [[0], [0], [1], [1], [2], [2]]


def test_texts_by_any_tokenizer(tmp_path: pathlib.Path) -> None:
    """Without a chat template an answer continues its prompt, whatever the key."""
    for rows, name in (([PAIR], "chosen"), ([RATED], "text"), ([MANY], "text"), ([HH], "chosen")):
        path = write(tmp_path / "in.jsonl", rows)
        words = ["--input", str(path), "--output-prefix", str(tmp_path / "x"), "--workers", "1"]
        assert status_of([*words, *CHAR[:2], "--overwrite"]) == 0
        tokens = IndexedDataset(tmp_path / f"x_{name}_document")
        labels = IndexedDataset(tmp_path / f"x_{name}_label_document")
        text = {"chosen": "one?yes", "text": "one?yes"}[name]
        if rows == [MANY]:
            text = "1 + 1 = 2"
        elif rows == [HH]:
            text = HH["chosen"]
        assert tokens.dtype == np.int32
        assert tokens.get(0).tolist()[:-1] == list(text.encode())
        masked = [i for i in labels.get(0).tolist() if i != -100]
        assert masked[-1] == tokens.get(0)[-1] and bytes(masked[:-1]).decode() in text[-4:]


@pytest.mark.parametrize("inside", ["", "tokenizer"])
def test_the_tokenizer_of_a_run(tmp_path: pathlib.Path, inside: str) -> None:
    """It may have no tokenizer_config.json: the run's own description says how a text ends."""
    file = tokenizer(tmp_path / "model") / "tokenizer.json"
    (file.parent / "tokenizer_config.json").unlink()
    (file.parent / "chat_template.jinja").write_text(CHATML)
    build_tokenizer(TokenizerConfig("HFTokenizer", str(file), eod_token="</s>")).save(
        tmp_path / "run/tokenizer"
    )
    path = write(tmp_path / "in.jsonl", [PAIR])
    words = ["--input", str(path), "--output-prefix", str(tmp_path / "x"), "--workers", "1"]
    assert status_of([*words, "--tokenizer-path", str(tmp_path / "run" / inside)]) == 0
    assert learned(tmp_path / "x", "chosen") == [(ASKED + "yes<|im_end|>\n$", "yes<|im_end|>\n$")]


def test_a_prompt_has_the_same_tokens_before_each_answer(tmp_path: pathlib.Path) -> None:
    """The space at its end would be one token with the first word of one answer."""
    from tests.preprocess.test_turns import folder_of

    folder = folder_of(tmp_path / "merged", CHATML)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "a"}))
    row = {"prefix": "b ", "completions": ["Two", "c"], "rewards": [1, 2]}
    path = write(tmp_path / "in.jsonl", [row])
    words = ["--input", str(path), "--output-prefix", str(tmp_path / "x"), "--workers", "1"]
    assert status_of([*words, "--tokenizer-path", str(folder)]) == 0
    documents = listed(values(tmp_path / "x", "text"))
    assert documents[0][:2] == documents[1][:2]
    assert [label[:3].count(-100) for label in listed(values(tmp_path / "x", "text_label"))] == [
        2, 2,
    ]  # fmt: skip


def test_a_tokenizer_that_ends_every_text(tmp_path: pathlib.Path) -> None:
    """Its end does not stand between a prompt and the answer, nor twice after it."""
    import tokenizers

    folder = tokenizer(tmp_path / "ending", template=None)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ending = tokenizers.processors.TemplateProcessing("$0 </s>", None, [("</s>", END)])
    backend.post_processor = ending
    backend.save(str(folder / "tokenizer.json"))
    path = write(tmp_path / "in.jsonl", [MANY])
    words = ["--input", str(path), "--output-prefix", str(tmp_path / "x"), "--workers", "1"]
    assert status_of([*words, "--tokenizer-path", str(folder)]) == 0
    assert learned(tmp_path / "x", "text") == [("1 + 1 = 2$", " 2$"), ("1 + 1 = 3$", " 3$")]


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (PAIR, {"prompt": "one?", "chosen": "yes"}, 'no "rejected", found prompt, chosen'),
        (PAIR, PAIR | {"chosen": None}, 'no "chosen", found'),
        (PAIR, PAIR | {"chosen": ""}, '"chosen" has no answer in a turn of \'assistant\''),
        (PAIR, PAIR | {"chosen": " \n"}, '"chosen" has no answer'),
        (PAIR, PAIR | {"chosen": 3}, "one of \"chosen\" and \"rejected\" is a text and the other"),
        (PAIR, PAIR | {"chosen": 3, "rejected": 4}, '"chosen" is 3, expected a text or a list'),
        (PAIR, PAIR | {"prompt": 7}, '"prompt" is 7, expected a text or a list of turns'),
        (PAIR, PAIR | {"chosen": [says("yes")]}, "is a text and the other is not"),
        (PAIR, "text", "'text', expected an object with keys"),
        (PAIR, PAIR | {"chosen": [], "rejected": []}, '"chosen" has no answer'),
        (
            PAIR,
            {"chosen": [user("one?"), says("a")], "rejected": [user("two?"), says("b")]},
            "have no first turn in common, which would be their prompt",
        ),
        (
            PAIR,
            {"chosen": [user("o"), says("a"), user("p"), says("b")],
             "rejected": [user("o"), says("a"), user("q"), says("c")]},
            'the prompts of a pair must be the same, but after it "chosen" goes on with a turn of '
            "'user'",
        ),
        (
            PAIR,
            PAIR | {"chosen": [user("one?"), says("a")], "rejected": [user("two?"), says("b")]},
            'the prompt is not what both "chosen" and "rejected" begin with',
        ),
        (PAIR, {"chosen": "The cat", "rejected": "That dog"}, "no first word in common"),
        (PAIR, {"chosen": [user("a"), {"role": "assistant"}], "rejected": [user("a"), says("b")]},
         '"chosen" has no answer'),
        (RATED, RATED | {"label": "good"}, '"label" is \'good\', expected a number, true or false'),
        (RATED, {"prompt": "a", "completion": "b"}, 'no "label", expected a reward'),
        (RATED, {"prompt": "a", "label": True}, 'no "completion", found prompt, label'),
        (RATED, RATED | {"completion": ""}, '"completion" has no answer'),
        (RATED, {"messages": [user("a")], "label": True}, '"messages" has no answer'),
        (MANY, MANY | {"rewards": [1]}, "2 completions and 1 rewards, expected one reward for"),
        (MANY, MANY | {"completions": []}, '"completions" is [], expected a list with one or more'),
        (MANY, MANY | {"completions": "x"}, '"completions" is \'x\', expected a list'),
        (MANY, MANY | {"completions": ["x", 3]}, '"completions" is 3, expected a text'),
        (MANY, MANY | {"rewards": [1, None]}, '"rewards", number 2 is None, expected a number'),
        (MANY, {"completions": ["x"], "rewards": [1]}, 'no "prefix", found completions, rewards'),
        (MANY, MANY | {"prefix": "\ud800"}, "half a surrogate pair"),
    ],
)  # fmt: skip
def test_wrong_rows(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], good: Any, bad: Any, message: str
) -> None:
    assert run(tmp_path, [good, bad]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "in.jsonl, line 2: " in said[-1] and message in said[-1]
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize(
    ("row", "flags", "message"),
    [
        (PAIR, ["--kind", "rated"], "has the keys prompt, chosen, rejected, expected label, and"),
        (RATED, ["--kind", "pairs"], "expected chosen and rejected"),
        (RATED, ["--kind", "completions"], "expected prefix, completions and rewards"),
        (PAIR | RATED, [], "may be pairs and rated; say with --kind"),
        (PAIR, ["--kind", "text"], "--kind text: is made tokens of by --tokenizer-type"),
        (PAIR, ["--kind", "pairs", "--jsonl-keys", "chosen"], "--jsonl-keys: is not for --kind"),
        (PAIR, ["--kind", "pairs", "--no-mask"], "--no-mask: is not for --kind pairs"),
        (RATED, ["--kind", "rated", "--for-rm"], "--for-rm: is not for --kind rated"),
        (PAIR, ["--kind", "pairs", "--reward-key", "r"], "--reward-key: is not for --kind pairs"),
    ],
)
def test_wrong_kinds(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], row: Any, flags: list[str],
    message: str,
) -> None:  # fmt: skip
    assert run(tmp_path, [row], *flags) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said


def test_a_conversation_needs_a_template(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "in.jsonl", [PAIR | {"prompt": [user("one?")]}])
    words = ["--input", str(path), "--output-prefix", str(tmp_path / "x"), "--workers", "1"]
    assert status_of([*words, *CHAR]) == 2
    assert "which a chat template renders; give --tokenizer-path" in capsys.readouterr().err
    folder = tokenizer(tmp_path / "base", template=None)
    assert status_of([*words, "--tokenizer-path", str(folder)]) == 2
    assert "give --chat-template FILE" in capsys.readouterr().err
    write(path, [HH])  # texts need none
    assert status_of([*words, "--tokenizer-path", str(folder)]) == 0


def test_turns_that_cannot_be_told_apart(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names no flag that is refused for pairs."""
    from tests.preprocess.test_turns import BARE

    template = tmp_path / "bare.jinja"
    template.write_text(BARE)
    begin = [user("one?"), says("so"), user("two?")]
    sides = {"chosen": [*begin, says("a")], "rejected": [*begin, says("b")]}
    assert run(tmp_path, [sides], "--chat-template", str(template)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "line 1: the chat template renders the first turns" in said and "--no-mask" not in said


def test_other_ways_stay(tmp_path: pathlib.Path) -> None:
    """One side alone as conversations, as for NeoX; the kind of rows that have several keys."""
    chats = {"chosen": [user("one?"), says("yes")], "rejected": [user("one?"), says("no")]}
    assert run(tmp_path, [chats], "--jsonl-keys", "rejected") == 0
    assert set(made(tmp_path / "x")) == {
        f"_rejected{end}_document{suffix}"
        for end in ("", "_label") for suffix in (".bin", ".idx", ".sha256")
    }  # fmt: skip
    assert run(tmp_path, [RATED], "--kind", "chat") == 0
    assert (tmp_path / "x_completion_document.bin").exists()
    assert run(tmp_path, [RATED], "--reward-key", "label", "--overwrite") == 0
    assert listed(values(tmp_path / "x", "completion_reward")) == [[1]]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("row", [PAIR, RATED, MANY])
def test_killed_and_begun_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, row: Any
) -> None:
    """The numbers of the prompts, the count of equal pairs and the rewards' type go on."""
    path = write(tmp_path / "in.jsonl", [row] * 18)
    assert call(path, tmp_path / "whole" / "x") == 0
    assert call(path, tmp_path / "two" / "x", workers=2) == 0
    expected = made(tmp_path / "whole" / "x")
    assert made(tmp_path / "two" / "x") == expected
    if row is MANY:
        prompts = listed(values(tmp_path / "whole" / "x", "text_prompt"))
        assert prompts == [[number] for number in range(18) for _ in row["completions"]]
    monkeypatch.setattr(output, "EVERY", 0.0)
    add, limit = output.Output.add, 0

    def some(self: output.Output, encoded: output.Encoded) -> None:
        nonlocal limit
        if not limit:
            self._files = {}
            raise Killed
        limit -= 1
        add(self, encoded)

    monkeypatch.setattr(output.Output, "add", some)
    prefix = tmp_path / "killed" / "x"
    for _ in range(2):
        limit = 1
        with pytest.raises(Killed):
            call(path, prefix)
    limit = 100
    assert call(path, prefix) == 0
    assert made(prefix) == expected


def test_a_table_of_pairs(tmp_path: pathlib.Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    row = {"prompt": "one?", "chosen": [user("one?"), says("yes")],
           "rejected": [user("one?"), says("no")], "score": 1}  # fmt: skip
    parquet.write_table(pa.table({key: [value] for key, value in row.items()}),
                        tmp_path / "in.parquet")  # fmt: skip
    assert call(tmp_path / "in.parquet", tmp_path / "x") == 0
    assert learned(tmp_path / "x", "rejected") == [(ASKED + "no<|im_end|>\n$", "no<|im_end|>\n$")]
