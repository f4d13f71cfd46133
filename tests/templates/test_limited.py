"""A foreign template's limits: one line and an end, whatever it does."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxneox.errors import UserError
from jaxneox.templates import limited
from jaxneox.templates.child import rendered
from jaxneox.templates.jinja import TemplateFault, renderer
from jaxneox.templates.limited import LimitedTemplate, ToRender

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "é{% x %}"}]
WHOLE = ToRender(CHAT, [(1, True), (2, False), (1, False)])
PLAIN = (
    "{% for m in messages %}[{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}]{% endfor %}"
    "{{ eos_token if not add_generation_prompt else '>' }}{{ tools }}"
)


def test_beginnings_and_marks() -> None:
    template = LimitedTemplate(PLAIN, {"eos_token": "</s>"})
    first, second = template.render([WHOLE, ToRender(CHAT, [(2, True)], {"tools": "T"})])
    assert [one.text for one in first] == ["[a]>None", "[a][é{% x %}]</s>None", "[a]</s>None"]
    assert [one.generated for one in first] == [(), ((4, 12),), ()]
    assert second[0].text == "[a][é{% x %}]>T"
    assert template.render([]) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ 'a'.center(10 ** 10) }}", "more than 256 MiB of memory"),
        ("{{ messages[0].content * 10 ** 10 }}", "more than 256 MiB of memory"),
        ("{{ messages[0].content * 10 ** 7 }}", "a text of 10,000,000 characters"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
         "longer than 1 seconds"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deep"),
        ("{{ messages.nothing.nothing }}", "no attribute"),
        ("{{ raise_exception('') }}", "TemplateError"),
    ],
)  # fmt: skip
def test_limits(source: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within one call of C, which no handler of a signal can interrupt."""
    monkeypatch.setattr(limited, "SECONDS", 1)
    monkeypatch.setattr(limited, "MEMORY", 256 << 20)
    template = LimitedTemplate("{% if messages | length == 2 %}" + source + "{% endif %}", {})
    short = ToRender(CHAT[:1], [(1, False)])
    with pytest.raises(TemplateFault, match=message) as fault:
        template.render([short, ToRender(CHAT, [(1, False), (2, False)]), short])
    assert fault.value.number == 1 and "\n" not in str(fault.value)
    assert template.render([short])[0][0].text == ""  # it goes on, in another process if need be


def test_the_renderings_of_a_conversation_have_a_limit_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of 40,000 turns has a rendering for each answer, each longer than the last."""
    monkeypatch.setattr(limited, "TOGETHER", 1000)
    template = LimitedTemplate(PLAIN, {})
    assert len(template.render([ToRender(CHAT, [(1, False)] * 100)])[0]) == 100
    with pytest.raises(TemplateFault, match=r"2 messages are .* 1,000 characters together; cut it"):
        template.render([ToRender(CHAT, [(1, False)] * 200)])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for %}", "is not Jinja: Expected"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deep"),
        ("{{ " + "[" * 3000 + "]" * 3000 + " }}", "nested too deep|memory"),
        ("{{ [1]|slice(10**9)|list|length }}", "longer than 1 seconds"),
    ],
)
def test_limits_of_compiling(source: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "SECONDS", 1)
    with pytest.raises(UserError) as error:
        LimitedTemplate(source, {}).check()
    assert re.search(message, str(error.value)) and "\n" not in str(error.value)


def test_a_conversation_that_is_not_json() -> None:
    template = LimitedTemplate(PLAIN, {})
    with pytest.raises(TemplateFault, match="not JSON") as fault:
        template.render([WHOLE, ToRender([{"role": "user", "content": b""}], [(1, False)])])
    assert fault.value.number == 1
    assert len(template.render([WHOLE])[0]) == 3


@pytest.mark.slow
def test_nothing_is_imported_from_the_current_folder(tmp_path: Path) -> None:
    """A folder of a stranger's may hold a jinja2.py."""
    (tmp_path / "jinja2.py").write_text("open('was_run', 'w')")
    code = (
        "import sys; sys.path.remove('')\n"
        "from jaxneox.templates.limited import LimitedTemplate\n"
        "LimitedTemplate('{{ messages }}', {}).check()"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env)
    assert done.returncode == 0 and not (tmp_path / "was_run").exists()


def test_a_fault_does_not_take_the_time_of_the_next_conversation() -> None:
    """The system's clock for a rendering stands still when nothing is rendered."""
    source = "{{ raise_exception('no') if messages | length == 2 else 'x' }}"
    limits = {"seconds": 100, "longest": 100, "together": 100}
    render = renderer(source, {})
    with pytest.raises(TemplateFault, match="no"):
        rendered(render, json.dumps([CHAT, [(2, False)], {}]).encode(), limits)
    assert signal.setitimer(signal.ITIMER_PROF, 0) == (0, 0)
