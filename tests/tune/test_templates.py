"""Templates by name."""

import json
from pathlib import Path

import pytest

from jaxneox.errors import UserError
from jaxneox.templates.jinja import renderer
from jaxneox.tune.templates import CHATML, PLAIN, choose_template

TALK = [
    {"role": "system", "content": "Be."},
    {"role": "user", "content": "A"},
    {"role": "assistant", "content": "B"},
    {"role": "user", "content": "C"},
]


def rendered(source: str, count: int, prompt: bool) -> str:
    render = renderer(source, {"eos_token": "</s>"})
    return render(messages=json.loads(json.dumps(TALK[:count])), add_generation_prompt=prompt)[0]


def test_plain() -> None:
    assert rendered(PLAIN, 4, True) == "System: Be.\nUser: A\nAssistant: B</s>User: C\nAssistant:"
    for count in (1, 2, 3):  # each turn only adds to those before
        assert rendered(PLAIN, 4, False).startswith(rendered(PLAIN, count, False))
    assert rendered(PLAIN, 3, False).startswith(rendered(PLAIN, 2, True))


def test_an_answer_of_the_model_is_rendered_as_in_training() -> None:
    """It begins with the space that followed the prompt."""
    render = renderer(PLAIN, {"eos_token": "</s>"})
    answered = [*TALK[:2], {"role": "assistant", "content": " B"}, TALK[3]]
    assert render(messages=answered, add_generation_prompt=True)[0] == rendered(PLAIN, 4, True)


def test_chatml() -> None:
    assert rendered(CHATML, 2, True) == (
        "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n"
    )


def test_which_is_chosen(tmp_path: Path) -> None:
    bare, having = tmp_path / "bare", tmp_path / "having"
    bare.mkdir()
    having.mkdir()
    own = having / "chat_template.jinja"
    own.write_text("x")
    assert choose_template(having, None) == ("the model's own", None, None)
    assert choose_template(bare, None) == ("plain", PLAIN, None)
    assert choose_template(having, "chatml") == ("chatml", CHATML, None)
    assert choose_template(bare, str(own)) == (str(own), "x", own)
    with pytest.raises(
        UserError, match="no template of that name; expected a file of Jinja or plain"
    ):
        choose_template(bare, "llama")
