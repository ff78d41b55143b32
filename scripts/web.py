"""A page in the browser: drop a scan, say what happened to it, restore it, see where the program is unsure.

    python scripts/web.py                                               # http://127.0.0.1:7860, works without a network
    python scripts/web.py --model logs/medical/mine --max-upload-mb 512 # priors of your own beside the shipped ones
    python scripts/web.py --host 0.0.0.0 --user clinic --password-file password.txt     # for others; put TLS before it

One restoration runs at a time, others wait in a queue. What is sent lies in a folder of its own until the page is closed.
Exit codes: 0 stopped, 2 the user's mistake (one line).
"""

import base64
import hmac
import logging
import os
import re
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
import torch

from data import formats
from data.files import Refusal
from data.opened import Opened
from solvers.run import call as call  # now, so that nobody who presses waits for it
from solvers.run import door
from solvers.run.command import Parser, whole

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SERVED = re.compile(  # of what gradio has, not its uploads, files, proxies and editors
    r"/|/(assets|static|svelte|scan|mask|take)/.*|/(config/?|theme\.css|favicon\.ico|manifest\.json)"
    r"|/gradio_api/(queue/(join|data)|heartbeat/\w+|startup-events|theme\.css|info/?|app_id/?|cancel|reset/?|run/\w+/?)"
)
HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
PAGES = 64  # open at once


class Session:
    """One visitor: a folder for what is sent, the rows in it, the last result, and whether a stop was asked for."""

    open: dict[str, "Session"] = {}  # by token

    def __init__(self) -> None:
        if len(Session.open) >= PAGES:
            raise Refusal(f"{PAGES} pages are open already")
        self.token, self.folder = (
            secrets.token_urlsafe(24),
            Path(tempfile.mkdtemp(prefix="palimpsest-web-")),
        )
        self.stop, self.scan, self.scans = threading.Event(), Opened(Path(), []), 0
        self.result: Any = None
        Session.open[self.token] = self

    def close(self) -> None:
        self.stop.set()
        Session.open.pop(self.token, None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def look(self, scan: Opened) -> None:
        """Restore this from now on, and forget what came before: its run, result, mask and file."""
        self.stop.set()
        self.scan, self.scans, self.result = scan, self.scans + 1, None
        (self.folder / "mask.png").unlink(missing_ok=True)
        for old in self.folder.glob("sent-*"):
            if not scan.path.is_relative_to(old):
                shutil.rmtree(old)

    def mask(self, path: Path, width: int) -> None:
        """Bytes, 255 where a pixel was measured, as the mask of the next restoration."""
        drawn = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        formats.write(
            formats.Image(drawn.reshape(1, -1, width).float(), formats.Meta("png", "uint8")),
            self.folder / "mask.png",
        )

    def take(self, what: str) -> Path:
        """The file of a download."""
        result, meta = self.result, self.result.middle.scan.source.meta
        several = self.scan.path.is_dir() and len(result.outcomes) > 1
        suffix = {"panel": ".png", "report": ""}.get(
            what, ".zip" if several else formats.suffix(meta)
        )
        path = self.folder / f"{'panel' if what == 'panel' else 'restored'}{suffix}"
        if what == "report":
            result.save(path, overwrite=True)
            return path / "report.html"
        (result.picture if what == "panel" else result).save(path)
        return path

    def said(self, error: BaseException) -> str:
        """The line about a mistake, without any path of this computer. A bug is in the log."""
        if self.token not in Session.open:
            return "This page was closed."
        reason = door.explained(error)
        if not reason:
            logging.error("a bug in the program", exc_info=error)
            return "Something went wrong; the server's log says what."
        return re.sub(r"(?<!\w)/([^\s/:]+/)+", "", reason)


class Guard:
    """ASGI middleware: hosts of ours (no DNS rebinding), visitors with the password, and routes of this page, no others."""

    def __init__(self, app: Any, hosts: Sequence[str], login: str):
        self.app, self.hosts = app, hosts
        self.login = f"Basic {base64.b64encode(login.encode()).decode()}".encode() if login else b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        host = re.sub(r":\d+$", "", headers.get(b"host", b"").decode("latin1")).strip("[]")
        known = not self.login or hmac.compare_digest(
            headers.get(b"authorization", b""), self.login
        )
        served = scope["type"] == "http" and SERVED.fullmatch(scope["path"])
        status = (
            421
            if self.hosts and host not in self.hosts
            else 401
            if not known
            else 200
            if served
            else 404
        )
        if status != 200:
            asked = [(b"www-authenticate", b'Basic realm="Palimpsest"')] if status == 401 else []
            await send({"type": "http.response.start", "status": status, "headers": asked})
            return await send({"type": "http.response.body", "body": b""})

        async def guarded(message: Any) -> None:
            more = (
                {"headers": [*message["headers"], *HEADERS]}
                if message["type"] == "http.response.start"
                else {}
            )
            await send(message | more)

        await self.app(scope, receive, guarded)


def application(
    models: Sequence[str], most: int, hosts: Sequence[str] = (), login: str = ""
) -> Any:
    """The page as an ASGI application. models: priors beside the shipped ones. most: bytes of an upload."""
    import gradio
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import FileResponse
    from web_page import CSS, HEAD, TAKEN, THEME, blocks

    app = FastAPI(openapi_url=None)

    def opened(token: str) -> Session:
        if token not in Session.open:
            raise HTTPException(404, "this page was closed; load it again")
        return Session.open[token]

    @app.post("/{kind}/{token}")
    async def receive(
        kind: str, token: str, request: Request, suffix: str = "", width: int = 1
    ) -> dict[str, str]:
        session = opened(token)
        folder = Path(tempfile.mkdtemp(prefix="sent-", dir=session.folder))
        try:
            if kind == "scan" and suffix.lower() not in formats.SUFFIXES:
                raise Refusal(
                    f"files called *{suffix[:12]} are not read; {', '.join(formats.SUFFIXES)} are allowed"
                )
            path, size = folder / (f"scan{suffix.lower()}" if kind == "scan" else "mask"), 0
            with path.open("wb") as file:
                async for (
                    piece
                ) in request.stream():  # to its end, or the browser would not read the answer
                    size += len(piece)
                    file.write(piece if size <= most else b"")
            if size > most:
                raise Refusal(
                    f"the file is larger than {most >> 20} MB; --max-upload-mb of scripts/web.py allows more"
                )
            await run_in_threadpool(
                lambda: (
                    session.look(Opened.of(path)) if kind == "scan" else session.mask(path, width)
                )
            )
            return {}
        except Exception as error:
            shutil.rmtree(folder)
            return {"refused": session.said(error)}

    @app.get("/take/{token}/{what}")
    def take(token: str, what: str) -> Any:
        if opened(token).result is None or what not in TAKEN:
            raise HTTPException(404)
        try:
            path = opened(token).take(what)
        except Refusal as error:
            raise HTTPException(409, opened(token).said(error)) from error
        return FileResponse(path, filename=path.name)

    shown: Any = {
        "theme": THEME,
        "css": CSS,
        "head": HEAD,
        "footer_links": [],
        "ssr_mode": False,
        "show_error": False,
    }
    app = gradio.mount_gradio_app(app, blocks(Session, models), path="/", **shown)
    app.add_middleware(Guard, hosts=hosts, login=login)
    return app


def main(argv: Sequence[str]) -> int:
    parser = Parser("web.py", __doc__)
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; others than loopback need --user",
    )
    add("--port", type=int, default=7860)
    add("--user", default="", metavar="NAME")
    add("--password-file", type=Path, metavar="FILE", help="its first line is the password")
    add(
        "--model", nargs="+", default=[], metavar="FOLDER", help="priors of your own to choose from"
    )
    add("--max-upload-mb", type=whole, default=256, metavar="N")
    return door.run(parser.prog, argv, lambda: serve(parser.parse_args(argv)))


def serve(options: Any) -> None:
    """Listen until interrupted. Raises Refusal for an address that others reach, without a user and a password."""
    local, most = options.host in LOOPBACK, options.max_upload_mb << 20
    if bool(options.user) != bool(options.password_file) or not (local or options.user):
        raise Refusal(
            f"--host {options.host}: --user NAME and --password-file FILE go together, and are needed off loopback"
        )
    password = options.password_file.read_text().partition("\n")[0] if options.user else ""
    if options.user and not password:
        raise Refusal(f"{options.password_file}: its first line is empty; a password is needed")
    if options.max_image_bytes is None:
        formats.allow(most)
    try:
        import uvicorn

        login = f"{options.user}:{password}" if options.user else ""
        app = application(options.model, most, LOOPBACK if local else (), login)
    except ModuleNotFoundError as error:
        raise Refusal(
            f"{error.name} is not installed; make web, or pip install -e '.[web]', does that"
        ) from error
    print(f"Palimpsest: http://{options.host}:{options.port}/   (Ctrl-C ends it)", flush=True)
    try:
        uvicorn.run(
            app,
            host=options.host,
            port=options.port,
            log_level="warning",
            timeout_graceful_shutdown=2,
        )
    finally:
        for session in list(Session.open.values()):
            session.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
