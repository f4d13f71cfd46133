"""Rewards of texts in Python and by the command, against the values themselves and NeoX's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxneox
from jaxneox.data.companions import Companions
from jaxneox.data.indexed import IndexedDataset
from jaxneox.errors import UserError
from jaxneox.evaluate.command import main
from jaxneox.evaluate.texts import RewardTexts
from jaxneox.generate.command import main as generate
from jaxneox.loading import LoadedModel
from tests.infer.models import speaker

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"
HI, HELLO, NO = (
    {"role": role, "content": content}
    for role, content in (("user", "hi"), ("assistant", "hello"), ("assistant", "no"))
)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    made = speaker(train_impl="rm")
    assert made.tokenizer is not None
    made.tokenizer.companions = Companions(files={"chat_template.jinja": TEMPLATE.encode()})
    return made


@pytest.fixture(scope="module")
def run(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save(tmp_path_factory.mktemp("rewards") / "run")


def last_value(model: LoadedModel, tokens: list[int]) -> float:
    return float(model.values(model.params, [tokens])[0, -1])


def call(main: Any, capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    return int(ended.value.code or 0), *capsys.readouterr()


def test_the_value_after_the_last_token(model: LoadedModel) -> None:
    """Of texts after the end of a document; rows of other lengths in a batch change nothing."""
    texts: list[Any] = ["one", [5, 6, 7, 8, 9], "", "a much longer one, of forty tokens or so", [3]]
    found = model.rewards(texts)
    assert found.dtype == np.float32
    tokens = [[*t.encode(), 0] if isinstance(t, str) else t for t in texts]
    assert found == pytest.approx([last_value(model, ids) for ids in tokens], rel=1e-5, abs=1e-6)
    assert model.rewards("one") == pytest.approx(found[:1])
    assert model.rewards([]).shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["dp=2,tp=2", "pp=2,cp=2"])
def test_every_mesh_alike(model: LoadedModel, mesh: str) -> None:
    texts = [f"text {'x' * (7 * n)}" for n in range(5)]
    split = speaker(mesh, train_impl="rm")
    assert split.rewards(texts) == pytest.approx(model.rewards(texts), rel=1e-5, abs=1e-6)


def test_what_is_refused_in_python(model: LoadedModel) -> None:
    with pytest.raises(UserError, match="text 1: has 49 tokens, and the model's context is 48"):
        model.rewards(["short", "x" * 48])
    with pytest.raises(UserError, match="text 0: has no token"):
        model.rewards([[]])
    with pytest.raises(UserError, match="token 999 is to be scored"):
        model.rewards([[999]])
    logits = "a reward model, which has no logits; it scores texts: `jaxneox evaluate --rewards`"
    tokens = np.zeros((1, 4), int)
    for ask in (
        lambda: model.generate("x"),
        lambda: model.generate("x", recompute=True),
        lambda: model.loglikelihood([("a", "b")]),
        lambda: model(tokens),
        lambda: model.logits(model.params, tokens),
        lambda: model.loss(model.params, tokens),
        lambda: model.trace(tokens, "layers.*.residual"),
        model.release,
    ):
        with pytest.raises(UserError, match=logits):
            ask()
    language = speaker()
    for ask in (lambda: language.rewards("x"), lambda: language.values(language.params, tokens)):
        with pytest.raises(UserError, match="not a reward model, and gives no rewards"):
            ask()
    with pytest.raises(UserError, match="no tokenizer; give texts as lists of tokens"):
        speaker(tokenizer=False, train_impl="rm").rewards("x")


LINES: list[tuple[dict[str, Any], list[str]]] = [
    ({"text": "some text", "id": 7}, ["some text"]),
    ({"prompt": "why? ", "completion": "so"}, ["why? so"]),
    ({"prompt": [HI], "completion": [HELLO]}, ["u:hi\na:hello\n"]),
    ({"messages": [HI, HELLO, HI]}, ["u:hi\na:hello\nu:hi\n"]),
    ({"chosen": "good", "rejected": "bad"}, ["good", "bad"]),
    ({"prompt": "it is ", "chosen": "good", "rejected": "bad"}, ["it is good", "it is bad"]),
    ({"chosen": [HI, HELLO], "rejected": [HI, NO]}, ["u:hi\na:hello\n", "u:hi\na:no\n"]),
    (
        {"prompt": [HI], "chosen": [HELLO], "rejected": "no"},
        ["u:hi\na:hello\n", "u:hi\na:no\n"],
    ),
    (
        {"prompt": "hi", "chosen": [HI, HELLO], "rejected": [NO]},
        ["u:hi\na:hello\n", "u:hi\na:no\n"],
    ),
]


def test_each_line_with_its_rewards(model: LoadedModel, run: Path, capsys, tmp_path: Path) -> None:
    file, out = tmp_path / "lines.jsonl", tmp_path / "out.jsonl"
    file.write_text("\n".join(json.dumps(line) for line, _ in LINES))
    status, shown, err = call(main, capsys, run, "--rewards", file, "--output", out)
    assert status == 0, err
    found = [json.loads(line) for line in out.read_text().splitlines()]
    margins, singles = [], []
    for (line, texts), row in zip(LINES, found, strict=True):
        expected = [float(value) for value in model.rewards(texts)]
        keys = ("chosen_reward", "rejected_reward")[: len(texts)] if len(texts) > 1 else ("reward",)
        assert [row.pop(key) for key in keys] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert row == line
        (margins if len(texts) > 1 else singles).append(expected)
    apart = [one - other for one, other in margins]
    figures = {
        words[0]: words[-1] for words in (s.rsplit(None, 1) for s in shown.splitlines()) if words
    }
    assert figures[" texts"] == "4" and figures[" pairs"] == "5"
    assert float(figures[" mean reward"]) == pytest.approx(np.mean(singles), abs=2e-6)
    assert float(figures[" mean margin"]) == pytest.approx(np.mean(apart), abs=2e-6)
    accuracy = float(figures[" accuracy (chosen above rejected)"])
    assert accuracy == np.mean([margin > 0 for margin in apart])
    status, shown, _ = call(main, capsys, run, "--rewards", file, "--limit", "1")
    assert status == 0 and "pairs" not in shown


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: no JSON"),
        ("[]", "line 2: expected an object"),
        ({"words": "x"}, 'line 2: has none of them, expected one of "text"'),
        ({"text": 3}, 'line 2: "text" is not a string'),
        ({"text": "x", "chosen": "y", "rejected": "z"}, 'line 2: has "text" and "chosen"'),
        ({"completion": "x"}, 'line 2: has a "completion" and no "prompt"'),
        ({"chosen": "x"}, 'line 2: has "chosen" and no "rejected"'),
        ({"rejected": "x"}, "line 2: has none of them"),
        ({"messages": "x"}, 'line 2: "messages" is not a list of messages'),
        ({"messages": [{"role": "user"}, 3]}, 'line 2: "messages" is neither a string nor a list'),
        ({"messages": []}, 'line 2: "messages" is neither'),
        ({"prompt": "a", "chosen": [HI], "rejected": [NO]}, 'line 2: "prompt" is a string that is'),
        ({"text": "x" * 60}, "line 2: a text with its end: has 61 tokens"),
    ],
)
def test_a_bad_line_is_named(run: Path, capsys, tmp_path: Path, line: Any, says: str) -> None:
    file, out = tmp_path / "lines.jsonl", tmp_path / "out.jsonl"
    out.write_text("as it was")
    bad = line if isinstance(line, str) else json.dumps(line)
    file.write_text(f'{{"text": "good"}}\n{bad}\n')
    status, _, err = call(main, capsys, run, "--rewards", file, "--output", out)
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2 and f"{file}, {says}" in error
    assert out.read_text() == "as it was"


def test_what_the_commands_refuse(run: Path, capsys, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text("")
    language = speaker().save(tmp_path / "language")
    asked = {
        (main, run, "--rewards", file): "lines.jsonl: no line in it",
        (main, run, "--rewards", tmp_path / "none"): "none: no such file",
        (main, run, "--rewards", file, "--perplexity", file): "--rewards goes without --perplexity",
        (main, run, "--perplexity", file): "run: the checkpoint is a reward model",
        (main, language, "--rewards", file): "language: the checkpoint is not a reward model",
        (generate, run, "--prompt", "x"): "the checkpoint is a reward model, which has no logits",
    }
    for (command, *args), says in asked.items():
        status, _, err = call(command, capsys, *args)
        (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert status == 2 and says in error, error


@pytest.mark.slow
def test_what_neox_reads_while_it_trains(shared: Path, tmp_path: Path) -> None:
    """The values of its first batch, and the same tokens from the conversations themselves."""
    pytest.importorskip("torch", reason="needs the torch extra")
    import yaml

    from convert import from_neox
    from tests.convert.commands import call as convert

    golden = shared / "golden" / "neox_posttrain"
    keys = yaml.safe_load((golden / "rm_mp1" / "neox_config.yml").read_text())
    data = ("pos-train", "pos-valid", "pos-test", "neg-", "load")
    keys = {name: value for name, value in keys.items() if not name.startswith(data)}
    keys["vocab-file"] = str(golden / "common" / "tokenizer.json")
    (tmp_path / "neox.yml").write_text(yaml.safe_dump(keys))
    source = golden / "common" / "ckpt" / "rm_llama_mp1"
    convert(from_neox, source, tmp_path / "ours", "--config", tmp_path / "neox.yml", "--no-verify")
    model = jaxneox.load(tmp_path / "ours")
    with np.load(golden / "rm_mp1" / "golden.npz") as arrays:
        tokens, mask = arrays["batch/tokens"][0, 0], arrays["batch/loss_mask"][0, 0]
        means = arrays["metric/pos_values"][0], arrays["metric/neg_values"][0]
    ends = mask.argmax(axis=-1)
    rewards = model.rewards([row[: end + 1] for row, end in zip(tokens, ends, strict=True)])
    assert rewards.reshape(2, -1).mean(axis=1) == pytest.approx(means, abs=2e-5)
    rows = RewardTexts(model).rows(str(golden / "common" / "data" / "pairs_short.jsonl"))
    for side, name in enumerate(("chosen", "rejected")):
        saved = IndexedDataset(golden / "common" / "data" / f"rm_{name}_document")
        for number, row in enumerate(rows):
            assert row.tokens[side] == saved.get(number).tolist()[:-1]


def test_a_note_on_strings_that_a_template_would_render(
    model: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What preprocessing makes turns of is read as it is."""
    file = tmp_path / "rows.jsonl"
    joined = {"prompt": "hi", "chosen": "hello", "rejected": "no"}
    asked = {"prompt": [HI], "chosen": [HELLO], "rejected": [NO]}
    for document, noted in ((joined, True), (asked, False), ({"text": "hi"}, False)):
        file.write_text(json.dumps(document))
        RewardTexts(model).rows(str(file))
        assert ("are joined as they are" in capsys.readouterr().err) == noted
