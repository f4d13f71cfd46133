"""The page at / in a real browser: text and chat as they grow, their speed, stopping, refusals."""

import asyncio
import base64
import json
import os
import threading
from pathlib import Path

import pytest

from jaxneox.serve.models import ServedModels
from jaxneox.serve.served import Served
from tests.infer.models import speaker
from tests.serve.browser import page
from tests.serve.place import Place, place

pytestmark = pytest.mark.slow  # the page runs in node

ENTER = (
    "at('message').dispatchEvent(new KeyboardEvent('keydown', "
    "{key: 'Enter', isComposing: %s, cancelable: true}))"
)


def test_page(here: Place, tmp_path: Path) -> None:
    asyncio.run(visit(here, tmp_path))


async def visit(here: Place, folder: Path) -> None:
    async with page(f"http://127.0.0.1:{here.port}/", folder / "profile") as tab:
        await tab.until("at('model').textContent == 'speaker, context 48'")
        await tab.run("at('prompt').value = 'The'; at('temperature').value = 0")
        await tab.run("at('max_tokens').value = 40; at('go').click()")
        await tab.until("!going")
        text = here.alone("The", max_tokens=40).text
        shown = await tab.run("[...at('text').children].map(part => part.textContent)")
        assert shown == ["The", text]
        rate = await tab.run("at('rate').textContent")
        assert rate.startswith("40 tokens, ") and rate.endswith(" tokens/s")

        with here.slow(0.1) as steps:
            await tab.run("at('go').click()")
            await tab.until("at('rate').textContent.startsWith('5 tokens')")
            assert await tab.run("at('go').disabled && !at('stop').disabled")
            await tab.run("at('stop').click()")
            await tab.until("!going")
            assert here.settles(running=0) and len(steps) < 40  # before its end
        assert (await tab.run("at('rate').textContent")).endswith(", stopped")
        assert text.startswith((await tab.run("at('text').children[1]?.textContent || ''"))[:2])

        assert tab.said == []
        await tab.run("at('prompt').value = 'x'.repeat(60); at('go').click()")
        await tab.until("!going")
        assert "context is 48 tokens" in await tab.run("at('text').lastChild.textContent")
        if shot := os.environ.get("SCREENSHOT"):
            await tab.run(f"at('prompt').value = {json.dumps('The old man')}; at('go').click()")
            await tab.until("!going")
            data = (await tab.call("Page.captureScreenshot"))["data"]
            Path(shot).write_bytes(base64.b64decode(data))


def test_chat_tab(here: Place, tmp_path: Path) -> None:
    asyncio.run(talk(here, tmp_path))


async def talk(here: Place, folder: Path) -> None:
    said = "[...at('talk').children].map(part => [part.className, part.textContent])"
    async with page(f"http://127.0.0.1:{here.port}/", folder / "profile") as tab:
        await tab.until("!at('tabs').hidden")
        await tab.run("at('tab_chat').click(); at('system').value = 'S'")
        assert await tab.run("at('prompt').offsetParent === null && at('go').textContent") == "Send"
        await tab.run("at('temperature').value = 0; at('max_tokens').value = 5")
        await tab.run("at('message').value = '<b>A'; at('go').click()")
        await tab.until("!going")
        first = here.alone("s:S\nu:<b>A\na:", max_tokens=5).text
        assert await tab.run(said) == [["user", "<b>A"], ["assistant", first]]
        assert (await tab.run("at('rate').textContent")).startswith("5 tokens, ")
        await tab.run("at('message').value = 'B'; at('go').click()")
        await tab.until("!going")
        second = here.alone(f"s:S\nu:<b>A\na:{first}\nu:B\na:", max_tokens=5).text
        whole = [["user", "<b>A"], ["assistant", first], ["user", "B"], ["assistant", second]]
        assert await tab.run(said) == whole
        assert tab.said == []

        await tab.run(f"at('message').value = '{'x' * 60}'; at('go').click()")
        await tab.until("!going")
        shown = await tab.run(said)
        assert shown[:4] == whole and "context is 48 tokens" in shown[4][1]
        assert await tab.run("at('message').value.length") == 60  # to be shortened

        await tab.run("at('reset').click(); at('system').value = ''; at('max_tokens').value = 40")
        with here.slow(0.1):
            await tab.run("at('message').value = 'A'; at('go').click()")
            await tab.until("at('rate').textContent.startsWith('4 tokens')")
            await tab.run("at('stop').click()")
            await tab.until("!going")
            assert here.settles(running=0)
        ((_, _), (_, cut)) = await tab.run(said)
        assert here.alone("u:A\na:", max_tokens=40).text.startswith(cut)
        assert await tab.run("talk.length === 2 && talk[1].content") == cut
        await tab.run("at('reset').click(); at('message').value = 'A'; " + ENTER % "true")
        assert await tab.run("going === null && at('message').value") == "A"  # chose a word
        await tab.run(ENTER % "false" + "; at('stop').click()")
        await tab.until("!going")
        assert await tab.run(said) == [["wrong", "stopped before the first token"]]
        assert await tab.run("talk.length === 0 && at('message').value") == "A"
        if shot := os.environ.get("SCREENSHOT"):
            data = (await tab.call("Page.captureScreenshot"))["data"]
            Path(shot).with_suffix(".chat.png").write_bytes(base64.b64decode(data))


def test_a_page_that_was_open_before_the_model_was_there(tmp_path: Path) -> None:
    there = threading.Event()

    def load(say) -> ServedModels:
        say("reading")
        there.wait()
        chat = "there is no template"
        return ServedModels([Served("late", speaker(), slots=1, max_tokens=None, chat=chat)])

    async def look(here: Place) -> None:
        async with page(f"http://127.0.0.1:{here.port}/", tmp_path / "profile") as tab:
            await tab.until("at('model').textContent == 'loading'")
            there.set()
            await tab.until("at('model').textContent == 'late, context 48'")

    with place(load=load) as here:
        try:
            asyncio.run(look(here))
        finally:  # also where there is no browser: the server waits for the model
            there.set()


def test_no_chat_tab_without_a_template(tmp_path: Path) -> None:
    async def look(there: Place) -> None:
        async with page(f"http://127.0.0.1:{there.port}/", tmp_path / "profile") as tab:
            await tab.until("at('model').textContent == 'speaker, context 48'")
            assert await tab.run("at('tabs').hidden")

    with place(template=None) as there:
        asyncio.run(look(there))
