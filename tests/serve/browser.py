"""Debian's chromium, spoken to in its own protocol (DevTools)."""

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.limits import PATIENCE

CHROMIUM = shutil.which("chromium")


class Page:
    def __init__(self, link: aiohttp.ClientWebSocketResponse):
        self._link, self._number = link, 0
        self.said: list[str] = []
        """Errors and refused requests that the page caused."""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        await self._link.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = await self._link.receive_json(timeout=PATIENCE)
            if message.get("id") == self._number:
                return message["result"]
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.said.append(str(message["params"]))

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str) -> None:
        end = time.monotonic() + PATIENCE
        while not await self.run(script):
            assert time.monotonic() < end, f"never: {script}"
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def page(url: str, profile: Path) -> AsyncIterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
    place = f"--user-data-dir={profile}"
    browser = subprocess.Popen(
        (CHROMIUM, *flags, place, "--remote-allow-origins=*", "about:blank"),
        stderr=subprocess.DEVNULL,
    )
    try:
        port = await started(profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as listed:
                (tab, *_) = [t for t in await listed.json() if t["type"] == "page"]
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as link:
                found = Page(link)
                for domain in ("Runtime", "Log", "Page"):
                    await found.call(f"{domain}.enable")
                await found.call("Page.navigate", url=url)
                await found.until("document.readyState == 'complete' && location.port != ''")
                yield found
    finally:
        browser.kill()
        browser.wait()


async def started(file: Path) -> int:
    end = time.monotonic() + PATIENCE
    while not file.is_file() or not file.read_text().strip():
        assert time.monotonic() < end, "chromium did not start"
        await asyncio.sleep(0.05)
    return int(file.read_text().split()[0])
