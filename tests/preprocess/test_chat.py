"""Conversations: the texts of transformers' apply_chat_template, NeoX's tokens and labels."""

import json
import pathlib
import re
from typing import Any

import pytest
import tokenizers

from jaxneox.data.indexed import IndexedDataset
from jaxneox.errors import UserError
from jaxneox.preprocess.chat import ChatRecipe
from jaxneox.templates.jinja import renderer
from tests.preprocess.command import made, status_of

PLAIN = """{{ bos_token }}
  {% for message in messages %}
    {%- if message['role'] not in ['user', 'assistant', 'system'] %}
        {{ raise_exception('no such role') }}
    {%- endif %}
<|{{ message.role }}|>
{% if message.role == 'assistant' %}
{% generation %}
{{ message['content'] | trim }}{{ eos_token }}
{% endgeneration %}
{% else %}
{{ message['content'] | tojson }}
{% endif %}
{% if loop.last %}{% continue %}{% endif %}
{% endfor %}
{%- if add_generation_prompt %}<|assistant|>
{% endif %}{{ unk_token }}{% if tools %}tools{% endif %}"""
CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' "
    "+ '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "plain": PLAIN}
CHATS = [
    [("user", "hi <b> & é"), ("assistant", " hello "), ("user", "more\n"), ("assistant", "東京")],
    [("system", "be short"), ("user", "why?"), ("assistant", "because"), ("user", "\"so\"")],
    [("assistant", "first")],
    [("user", "nothing")],
    [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d")],
]  # fmt: skip


def turns(chat: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in chat]


@pytest.fixture(params=TEMPLATES)
def folder(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> pathlib.Path:
    """A tokenizer of bytes as Hugging Face saves one, with one of the templates."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({word: i for i, word in enumerate([*alphabet, "he"])}, [("h", "e")])
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    # adds <s> to any text: a rendered conversation must not get a second one
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        "<s> $0", None, [("<s>", 257)]
    )
    backend.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False, "rstrip": False,
                      "normalized": False, "single_word": False},
        "chat_template": TEMPLATES[request.param], "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write(path: pathlib.Path, rows: list[Any]) -> pathlib.Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def call(path: pathlib.Path, folder: pathlib.Path, *more: str) -> int:
    return status_of([
        "--input", str(path), "--output-prefix", str(path.parent / "x"), "--chat-template",
        "--tokenizer-path", str(folder), "--workers", "1", *more,
    ])  # fmt: skip


def rows(path: pathlib.Path, name: str) -> list[list[int]]:
    dataset = IndexedDataset(path.parent / f"x_{name}_document")
    assert dataset.dtype == "int32"
    return [dataset.get(i).tolist() for i in range(len(dataset))]


def neox(tokenizer: Any, chat: Any, role: str, only_last: bool) -> tuple[list[int], list[int]]:
    """What preprocess_data_with_chat_template.py makes of a conversation, said again."""
    tokens: list[int] = []
    labels: list[int] = []
    for end in range(1, len(chat) + 1):
        following = chat[end]["role"] if end < len(chat) else None
        so_far = tokenizer.apply_chat_template(
            chat[:end], add_generation_prompt=following == role, return_dict=False
        )
        fresh = so_far[len(tokens) :]
        tokens = tokens + fresh
        hidden = (only_last and end < len(chat)) or chat[end - 1]["role"] != role
        labels = labels + ([-100] * len(fresh) if hidden else fresh)
    eos = tokenizer.eos_token_id
    return [*tokens, eos], [*labels, eos if labels[-1] != -100 else -100]


@pytest.mark.parametrize("only_last", [False, True])
def test_is_neox(folder: pathlib.Path, tmp_path: pathlib.Path, only_last: bool) -> None:
    """Each rendering begins with the one before: with `--generation-role user` it does not, and
    NeoX's tool loses the beginnings of turns."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    path = write(tmp_path / "in.jsonl", [{"conversation": turns(chat)} for chat in CHATS])
    flags = ["--only-last"] if only_last else []
    assert call(path, folder, *flags) == 0
    expected = [neox(theirs, turns(chat), "assistant", only_last) for chat in CHATS]
    assert rows(path, "conversation") == [tokens for tokens, _ in expected]
    assert rows(path, "conversation_label") == [labels for _, labels in expected]


def test_no_mask(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """As NeoX would: its tool fails at the label dataset that it then does not have."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    path = write(tmp_path / "in.jsonl", [{"c": turns(chat)} for chat in CHATS])
    assert call(path, folder, "--no-mask", "--jsonl-keys", "c") == 0
    assert rows(path, "c") == [
        theirs.apply_chat_template(turns(chat), return_dict=False) for chat in CHATS
    ]
    assert set(made(tmp_path / "x")) == {f"_c_document{s}" for s in (".bin", ".idx", ".sha256")}


@pytest.mark.parametrize("folder", ["chatml"], indirect=True)
def test_where_the_template_comes_from(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def found(template: pathlib.Path | None = None) -> Any:
        return ChatRecipe(folder, template).build().identity["template"]

    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert found() == CHATML
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "named"}]
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    assert found() == "named"
    (folder / "chat_template.jinja").write_text("beside")
    assert found() == "beside"
    (tmp_path / "given").write_text("given")
    assert found(tmp_path / "given") == "given"


def test_the_sandbox() -> None:
    render = renderer("{{ messages.__class__.__mro__ }}", {})
    with pytest.raises(Exception, match="unsafe"):
        render(messages=[])


TURN = {"role": "user", "content": "x"}


@pytest.mark.parametrize("folder", ["plain"], indirect=True)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"conversation": []}, 'line 2: "conversation" is no conversation'),
        ({"conversation": [TURN, {"content": "x"}]}, "line 2: .* no conversation, expected"),
        ({"text": "x"}, "line 2: .* no conversation"),
        ("x", "line 2: .* no conversation"),
        ({"conversation": [TURN | {"role": "tool"}]}, "template fails on .*: no such role"),
        ({"conversation": [TURN | {"content": "\ud800"}]}, "template fails on .*surrogate"),
        ({"conversation": [{"role": "user"}]}, "line 2: the chat template fails"),
    ],
)
def test_wrong_conversations(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str],
    row: Any, message: str,
) -> None:  # fmt: skip
    path = write(tmp_path / "in.jsonl", [{"conversation": [TURN]}, row])
    assert call(path, folder) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "in.jsonl, line 2: " in said
    assert re.search(message, said)


@pytest.mark.parametrize("folder", ["chatml"], indirect=True)
def test_wrong_folders(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for changed, message in (
        (
            config | {"chat_template": "{% for %}"},
            "tokenizer_config.json: the chat template is not Jinja",
        ),
        ({"bos_token": "<s>"}, r"no chat_template\.jinja and no chat_template"),
    ):
        (folder / "tokenizer_config.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=message):
            ChatRecipe(folder).build()
    with pytest.raises(
        UserError, match=r"tokenizer_config\.json: no such file; --tokenizer-path is a"
    ):
        ChatRecipe(tmp_path).build()
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json: not a tokenizer\.json"):
        ChatRecipe(folder).build()
