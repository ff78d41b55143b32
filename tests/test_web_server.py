"""Who may see the page; without a browser."""

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import web  # noqa: E402


@pytest.mark.parametrize("words", [["--host", "0.0.0.0"], ["--user", "x"], ["--port", "no"]])
def test_it_listens_to_others_only_with_a_password(words: list[str], capsys):
    assert web.main(words) == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_the_password_is_asked_for():
    async def told(login: bytes) -> int:
        sent: list[dict] = []

        async def send(message: dict) -> None:
            sent.append(message)

        async def page(scope, receive, send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})

        scope = {
            "type": "http",
            "path": "/",
            "headers": [(b"host", b"x"), (b"authorization", login)],
        }
        await web.Guard(page, (), "erika:geheim")(scope, None, send)
        return sent[0]["status"]

    assert [
        asyncio.run(told(word)) for word in (b"", b"Basic eDp5", b"Basic ZXJpa2E6Z2VoZWlt")
    ] == [401, 401, 200]


def test_a_file_without_an_ending_keeps_its_name():
    assert web.allowed("") == ""
