"""Who is answered: by the names of this machine, and with the key."""

import asyncio
import hmac
import json
import re
import socket
from pathlib import Path

import pytest

from jaxneox.errors import UserError
from jaxneox.serve import access, arguments
from jaxneox.serve.access import AccessRules, host_name, is_loopback, rules_at
from tests.serve.browser import page
from tests.serve.place import Place, place

BODY = json.dumps({"prompt": "The", "max_tokens": 1}).encode()
LOCAL = ["localhost", "LOCALHOST:8000", "localhost.:1", "127.0.0.1", "127.0.0.1:99", "[::1]:80"]
FOREIGN = [
    "evil.attacker.com",
    "localhost.evil.com",
    "127.0.0.1.evil.com:8000",
    "localhost:80@evil.com",
    "evil.com:localhost",
    "0.0.0.0",
    "[::2]",
    "::1",
    "[",
    "a b",
    "",
]


def asked(here: Place, **headers: str):
    return here.ask("POST", "/v1/completions", BODY, headers=headers)


@pytest.mark.parametrize("host", LOCAL)
def test_local_names_are_answered(here: Place, host: str) -> None:
    assert asked(here, Host=host, Origin=f"http://{host}").status == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_other_names_are_not(here: Place, host: str) -> None:
    for path in ("/", "/health", "/v1/models"):
        assert here.ask("GET", path, headers={"Host": host}).status == 403
    answer = asked(here, Host=host)
    assert answer.status == 403 and "--allow-host" in answer.reason
    assert b"\n" not in answer.body


@pytest.mark.parametrize(
    "origin", [*(f"http://{host}" for host in FOREIGN), "null", "file://", "ftp://localhost", "x"]
)
def test_other_origins_are_not(here: Place, origin: str) -> None:
    answer = asked(here, Origin=origin)
    assert answer.status == 403 and answer.reason.startswith("Origin: ")


def test_a_request_without_a_host_is_not(here: Place) -> None:
    with socket.create_connection(("127.0.0.1", here.port), timeout=60) as link:
        link.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert link.recv(1 << 16).startswith(b"HTTP/1.1 403 ")


def test_more_names_and_a_key() -> None:
    with place(names=("my.host", "::2"), key="se-cret") as here:
        right = {"Authorization": "Bearer se-cret", "Host": "My.Host:80"}
        assert asked(here, **right, Origin="https://my.host").status == 200
        assert asked(here, **right | {"Host": "[::2]:80"}).status == 200
        assert asked(here, **right | {"Host": "your.host"}).status == 403
        assert asked(here, **right | {"Authorization": "bearer se-cret"}).status == 200
        for wrong in ("se-cret", "Bearer se-cre", "Bearer se-crets", "Basic se-cret", "Bearer é"):
            answer = asked(here, Authorization=wrong)
            assert answer.status == 401 and "se-cret" not in answer.reason
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json["error"]["code"] == "invalid_api_key"
        for path, status in (("/", 200), ("/health", 200), ("/v1/models", 401), ("/x", 401)):
            assert here.ask("GET", path).status == status
        assert here.ask("GET", "/v1/models", headers=right).status == 200


def test_the_key_is_compared_in_constant_time(monkeypatch) -> None:
    compared = []
    same = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *two: compared.append(two) or same(*two))
    access.check_key("Bearer se-cret", "se-cret")
    ((one, other),) = compared
    assert one == other and len(one) == 32 and b"se-cret" not in one
    assert "se-cret" not in repr(AccessRules(key="se-cret"))


def test_at_other_addresses_any_name_is_right_unless_some_are_given() -> None:
    assert rules_at("0.0.0.0", [], None).hosts is None
    assert rules_at("0.0.0.0", ["a"], None).hosts == {"a", *access.LOCAL}
    scope = {"path": "/", "headers": [(b"host", b"10.0.0.7:80")], "server": ("10.0.0.7", 80)}
    rules_at("0.0.0.0", ["a"], None).check(scope)
    for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
        assert is_loopback(address) and rules_at(address, [], None).hosts
    assert not any(is_loopback(a) for a in ("0.0.0.0", "::", "10.0.0.1", "fe80::1%eth0"))
    assert host_name("[FE80::1]:8") == "fe80::1"


def test_bad_options_are_refused_and_a_key_is_not_shown(monkeypatch) -> None:
    parse = arguments.parser().parse_args
    for words in (["--allow-host", "a:80"], ["--allow-host", "http://a"], ["--allow-host", ""]):
        with pytest.raises(UserError, match="allow-host"):
            parse(["run", *words])
    given = parse(["run", "--allow-host", "A.b", "--allow-host", "::1", "--allow-host", "[::2]"])
    assert given.allow_host == ["a.b", "::1", "::2"]
    for key in ("", "two words", "ключ"):
        with pytest.raises(UserError, match="visible ASCII") as refused:
            parse(["run", "--api-key", key])
        assert not key or key not in str(refused.value)
        monkeypatch.setenv(access.VARIABLE, key)
        with pytest.raises(UserError, match="JAXNEOX_API_KEY: expected visible") as refused:
            access.key_in_environment()
        assert not key or key not in str(refused.value)
    text = re.sub(r"\s+", " ", arguments.parser().format_help())
    assert "`ps`" in text and "JAXNEOX_API_KEY" in text


@pytest.mark.slow
def test_the_page_asks_for_the_key(tmp_path: Path) -> None:
    async def visit(here: Place) -> None:
        async with page(f"http://127.0.0.1:{here.port}/", tmp_path / "profile") as tab:
            await tab.until("!at('secret').hidden")
            await tab.run("at('prompt').value = 'The'; at('temperature').value = 0")
            await tab.run("at('max_tokens').value = 9; at('go').click()")
            await tab.until("!going")
            assert "API key: missing" in await tab.run("at('text').lastChild.textContent")
            await tab.run("at('key').value = 'se-cret'; at('go').click()")
            await tab.until("!going")
            text = here.alone("The", max_tokens=9).text
            assert await tab.run("at('text').lastChild.textContent") == text

    with place(key="se-cret") as here:
        asyncio.run(visit(here))
