"""Templates by name."""

import json
from pathlib import Path

import pytest

from jaxneox.errors import UserError
from jaxneox.templates.jinja import renderer
from jaxneox.tune.templates import CHATML, PLAIN, template_of_model

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


def test_chatml() -> None:
    assert rendered(CHATML, 2, True) == (
        "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n"
    )


def test_which_is_chosen(tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("x")
    assert template_of_model(own, None) is None
    assert template_of_model(None, None) == (PLAIN, "plain")
    assert template_of_model(own, "chatml") == (CHATML, "chatml")
    assert template_of_model(None, str(own)) == ("x", str(own))
    with pytest.raises(
        UserError, match="no template of that name; expected a file of Jinja or plain"
    ):
        template_of_model(None, "llama")
