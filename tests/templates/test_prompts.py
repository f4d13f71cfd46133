"""Conversations as tokens: those of transformers' apply_chat_template, for each kind."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jaxneox.config.schema import TokenizerConfig
from jaxneox.data.companions import Companions
from jaxneox.data.tokenizer import CharLevelTokenizer, Tokenizer, build_tokenizer, companions_of
from jaxneox.errors import UserError
from jaxneox.templates.jinja import Rendered
from jaxneox.templates.prompts import ChatPrompts, chat_prompts
from tests.convert.tokenizer_folders import FOLDERS

CHAT = [
    {"role": "system", "content": "the theory"},
    {"role": "user", "content": "the hat 東京"},
    {"role": "assistant", "content": " a theory"},
    {"role": "user", "content": "a hat"},
]
KINDS = {"ChatML": "tokenizer.json", "Mistral": "tokenizer.json", "GPT-2, slow": "vocab.json"}
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def opened(name: str, folder: Path) -> Tokenizer:
    """A tokenizer as a conversion opens it, with what lies beside it."""
    FOLDERS[name](folder)
    kind = {"vocab.json": "GPT2BPETokenizer", "tokenizer.json": "HFTokenizer"}[KINDS[name]]
    merges = str(folder / "merges.txt") if kind == "GPT2BPETokenizer" else None
    cfg = TokenizerConfig(kind, str(folder / KINDS[name]), merges)
    return build_tokenizer(cfg, companions_of(cfg))


@pytest.mark.parametrize("name", KINDS)
def test_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the torch extra")
    tokenizer = opened(name, tmp_path)
    chat = chat_prompts(tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    whole = theirs.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    text = theirs.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert chat.render(CHAT) == text
    assert chat.encode(text) == whole


def test_a_begin_token_comes_from_the_template_alone(tmp_path: Path) -> None:
    """A tokenizer.json that puts <s> before every text does not put a second one."""
    chat = chat_prompts(opened("Mistral", tmp_path))
    tokens = chat.encode(chat.render(CHAT))
    assert tokens[0] == 1 and tokens.count(1) == 1


def test_a_sentencepiece_model_adds_no_begin_token_either(tmp_path: Path) -> None:
    FOLDERS["Llama, sentencepiece"](tmp_path)
    cfg = TokenizerConfig("SPMTokenizer", str(tmp_path / "tokenizer.model"))
    tokenizer = build_tokenizer(cfg, companions_of(cfg))
    assert tokenizer.encode("the hat") == [1, *tokenizer.encode_rendered("the hat")]


def test_which_template_counts(tmp_path: Path) -> None:
    tokenizer = opened("ChatML", tmp_path)
    files = dict(tokenizer.companions.files)
    named = b'{"chat_template": [{"name": "default", "template": "named"}], "eos_token": "!"}'

    def rendered(given: Path | None = None, **changed: bytes | None) -> str:
        new = {name.replace("__", "."): content for name, content in changed.items()}
        left = {name: content for name, content in {**files, **new}.items() if content is not None}
        tokenizer.companions = Companions(files=left)
        return chat_prompts(tokenizer, given).render(CHAT)

    assert rendered().startswith("<|im_start|>system\nthe theory")
    assert rendered(tokenizer_config__json=named).startswith("<|im_start|>")
    assert rendered(tokenizer_config__json=named, chat_template__jinja=None) == "named"
    other = b'{"chat_template": "of a processor {{ eos_token }}"}'
    found = rendered(chat_template__json=other, chat_template__jinja=None)
    assert found == "of a processor <|im_end|>"
    (tmp_path / "own.jinja").write_text("own {{ eos_token }}")
    assert rendered(tmp_path / "own.jinja") == "own <|im_end|>"
    with pytest.raises(UserError, match=r"no chat template.*give one with --chat-template FILE"):
        rendered(chat_template__jinja=None)
    with pytest.raises(UserError, match=r"none\.jinja: no such file"):
        rendered(tmp_path / "none.jinja")
    (tmp_path / "bad.jinja").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"bad\.jinja: cannot read the chat template"):
        rendered(tmp_path / "bad.jinja")
    with pytest.raises(UserError, match="no tokenizer"):
        chat_prompts(None)


def test_the_token_that_ends_a_turn_ends_an_answer(tmp_path: Path) -> None:
    """Also where a run ends its documents with another, and no file names it as an end."""
    tokenizer = opened("ChatML", tmp_path)
    assert ChatPrompts(tokenizer, "", {}, "").ends == ()
    files = tokenizer.companions
    tokenizer.eod, tokenizer.companions = 0, Companions(eos=files.eos)
    assert ChatPrompts(tokenizer, "", {}, "").ends == (tokenizer.id_of("<|im_end|>"),)


def test_developer_is_system_where_a_template_does_not_know_it() -> None:
    talk = [{"role": "developer", "content": "x"}]
    tokenizer = CharLevelTokenizer()
    assert ChatPrompts(tokenizer, TEMPLATE, {}, "").render(talk) == "system: x\n"
    knows = "{# developer #}" + TEMPLATE
    assert ChatPrompts(tokenizer, knows, {}, "").render(talk) == "developer: x\n"


def test_one_thread_at_a_time_has_the_template() -> None:
    """Else the answers of its process would go to others, or to nobody."""
    chat = ChatPrompts(CharLevelTokenizer(), TEMPLATE, {}, "")
    render, inside, most = chat._template.render, [], []

    def watched(asked):
        inside.append(asked)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return render(asked) if len(inside) == 0 else [[Rendered("", ())]]

    chat._template.render = watched
    talks = [[{"role": "user", "content": f"{number}" * 50}] for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(chat.render, talks))
    assert max(most) == 1
    assert found == [f"user: {talk[0]['content']}\n" for talk in talks]
