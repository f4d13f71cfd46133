"""The page at / in a real browser: text as it grows, its speed, the stop button, a refusal."""

import asyncio
import base64
import json
import os
from pathlib import Path

from tests.serve.browser import page
from tests.serve.place import Place


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
