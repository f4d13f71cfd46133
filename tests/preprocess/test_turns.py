"""Learned turns where the beginning of a conversation is rendered, or cut into tokens, otherwise
than in the whole: no word is lost and none is learned that is not the role's."""

import json
import pathlib
from typing import Any

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from jaxneox.data.documents import chunks
from jaxneox.data.indexed import IndexedDataset
from jaxneox.errors import UserError
from jaxneox.preprocess.chat import ChatRecipe
from jaxneox.preprocess.conversations import Chat
from jaxneox.preprocess.encode import UNSEEN
from jaxneox.preprocess.turns import Conversation, are_beginnings, spans_of_marks
from jaxneox.templates.jinja import renderer
from tests.preprocess.test_chat import CHATML, call, turns, write

# the prompt ends in a space, which is one token with the answer's first word
SPACE = (
    "{% for m in messages %}{{ 'Q: ' if m.role == 'user' else 'A: ' }}{{ m.content }}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}"
)
# the last turn is rendered otherwise than it is within a conversation
LAST = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{GEN}"
    "{{ m.content }}{% if loop.last %}!{% else %};{% endif %}{END}{% else %}{{ m.content }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
MARKED = LAST.replace("{GEN}", "{% generation %}").replace("{END}", "{% endgeneration %}")
BARE = LAST.replace("{GEN}", "").replace("{END}", "")
# the prompt thinks, and the conversation does not
THINK = CHATML.replace("assistant\\n'", "assistant\\n<think>\\n'").replace(
    "assistant\n'", "assistant\n<think>\n'"
)
CHAT = turns([("user", "one two"), ("assistant", "Two apples"), ("user", "so"),
              ("assistant", "Well two")])  # fmt: skip


def folder_of(path: pathlib.Path, template: str, *, trim: bool = True) -> pathlib.Path:
    """Bytes with the merges " T", " Tw" and " Two"; offsets leave spaces out or not."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "T"), ("ĠT", "w"), ("ĠTw", "o"), ("Ġ", "W"), ("Ġ", "Ġ")]
    words = [*alphabet, *("".join(pair) for pair in merges)]
    backend = tokenizers.Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.post_processor = tokenizers.processors.ByteLevel(trim_offsets=trim)
    path.mkdir(exist_ok=True)
    backend.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return path


def learned(folder: pathlib.Path, chat: Any, **settings: Any) -> tuple[str, str]:
    """All of the text, and what of it is learned."""
    encoder = ChatRecipe(folder, **settings).build()
    given = encoder.conversation({"conversation": chat}, "conversation", "line 1")
    one = Chat(given, "line 1", "conversation")
    (growing,) = encoder.tokenizer.rendered([one])
    tokens, labels = encoder.tokenizer.labelled(one, growing)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert all(label in (UNSEEN, token) for token, label in zip(tokens, labels, strict=True))
    return backend.decode(tokens), backend.decode([i for i in labels if i != UNSEEN])


@pytest.mark.parametrize("trim", [True, False])
def test_a_token_that_straddles_belongs_to_the_answer(tmp_path: pathlib.Path, trim: bool) -> None:
    """The space before " Two" is the prompt's, and the token reaches into the answer."""
    folder = folder_of(tmp_path / "tok", SPACE, trim=trim)
    text, answers = learned(folder, CHAT)
    assert text == "Q: one two\nA: Two apples\nQ: so\nA: Well two\n"
    assert answers == " Two apples\n Well two\n"
    assert learned(folder, CHAT, only_last=True) == (text, " Well two\n")


@pytest.mark.parametrize("trim", [True, False])
def test_a_space_that_an_answer_ends_with(tmp_path: pathlib.Path, trim: bool) -> None:
    """One token has the answer's last space and the next turn's first word."""
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    folder = folder_of(tmp_path / "tok", template, trim=trim)
    chat = turns([("user", "a"), ("assistant", "b  "), ("user", "Two"), ("user", "c")])
    assert learned(folder, chat) == ("ab  Twoc", "b  Two")


def test_generation_marks_find_the_turns(tmp_path: pathlib.Path) -> None:
    folder = folder_of(tmp_path / "tok", MARKED)
    text = "[user]one two[assistant]Two apples;[user]so[assistant]Well two!"
    assert learned(folder, CHAT) == (text, "Two apples;Well two!")
    assert learned(folder, CHAT, only_last=True)[1] == "Well two!"
    ends_with_the_user = CHAT[:3]
    assert learned(folder, ends_with_the_user)[1] == "Two apples;"
    assert learned(folder, ends_with_the_user, only_last=True)[1] == ""


def test_what_cannot_be_told_apart_is_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "tok", BARE)
    path = write(tmp_path / "in.jsonl", [{"conversation": CHAT[:2]}, {"conversation": CHAT}])
    assert call(path, folder) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "in.jsonl, line 2: the chat template renders the" in said
    assert call(path, folder, "--no-mask") == 0
    assert len(IndexedDataset(tmp_path / "x_conversation_document")) == 2


def test_marks_that_are_not_one_for_each_turn() -> None:
    rendered = renderer(MARKED.replace("m.role == 'assistant'", "loop.last"), {})(
        messages=CHAT, add_generation_prompt=False
    )
    assert spans_of_marks(rendered, Conversation(CHAT, "assistant", False)) is None
    marked = renderer(MARKED, {})(messages=CHAT, add_generation_prompt=False)
    assert spans_of_marks(marked, Conversation(CHAT, "user", False)) is None
    assert len(spans_of_marks(marked, Conversation(CHAT, "assistant", False)) or []) == 2


def test_marks_within_a_variable_are_none() -> None:
    source = "{% set x %}{% generation %}ab{% endgeneration %}{% endset %}cd{{ x }}"
    assert renderer(source, {})(messages=CHAT).generated == ()


@pytest.mark.parametrize("template", [CHATML, THINK])
def test_a_prompt_that_the_turn_does_not_begin_with(tmp_path: pathlib.Path, template: str) -> None:
    """NeoX's tool takes the assistant's prompt before a user's turn, and cuts by its length."""
    folder = folder_of(tmp_path / "tok", template)
    text, users = learned(folder, CHAT, role="user")
    start, end = "<|im_start|>", "<|im_end|>\n"
    assert users == f"{start}user\none two{end}{start}user\nso{end}"
    assert text == "".join(f"{start}{m['role']}\n{m['content']}{end}" for m in CHAT)
    if template is THINK:
        answers = f"{start}assistant\nTwo apples{end}{start}assistant\nWell two{end}"
        assert learned(folder, CHAT) == (text, answers)


def test_beginnings() -> None:
    assert are_beginnings([[1], [1, 2], [1, 2]]) and are_beginnings(["", "a", "ab"])
    assert not are_beginnings([[1], [2, 1]]) and not are_beginnings(["ab", "a"])


def test_a_document_of_several_keys(tmp_path: pathlib.Path) -> None:
    folder = folder_of(tmp_path / "tok", SPACE)
    path = write(tmp_path / "in.jsonl", [{"a": CHAT, "b": CHAT[:2]}])
    encoder = ChatRecipe(folder, keys=("a", "b")).build()
    assert encoder.encode(next(iter(chunks([path])))).documents == 1


def test_truncation_of_a_template_s_tokenizer_is_off(tmp_path: pathlib.Path) -> None:
    folder = folder_of(tmp_path / "tok", SPACE)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(8)
    backend.save(str(folder / "tokenizer.json"))
    assert learned(folder, CHAT)[0].endswith("two\n")


def test_special_tokens_of_older_folders(tmp_path: pathlib.Path) -> None:
    """special_tokens_map.json names what tokenizer_config.json does not, as transformers has it."""
    folder = folder_of(tmp_path / "tok", "{{ bos_token }}" + SPACE)
    named = {"bos_token": "a", "eos_token": {"content": "b"}}
    (folder / "special_tokens_map.json").write_text(json.dumps(named))
    text, answers = learned(folder, CHAT)
    assert text.startswith("aQ: ") and text.endswith("Well two\nb") and answers.endswith("\nb")


def test_an_unreadable_special_token_is_one_line(tmp_path: pathlib.Path) -> None:
    folder = folder_of(tmp_path / "tok", SPACE)
    (folder / "special_tokens_map.json").write_text('{"eos_token": 3}')
    with pytest.raises(UserError, match="eos_token is 3, expected the text of a token"):
        ChatRecipe(folder).build()
