"""A page in the browser: drop a scan, say what happened to it, restore it, see where the program is unsure.

    python scripts/web.py                                               # http://127.0.0.1:7860, works without a network
    python scripts/web.py --model logs/medical/mine --max-upload-mb 512 # priors of your own beside the shipped ones
    python scripts/web.py --host 0.0.0.0 --user clinic --password-file password.txt     # for others; put TLS before it

One restoration runs at a time, others wait in a queue. What is sent lies in a folder of its own until the page is closed.
Exit codes: 0 stopped, 2 the user's mistake (one line).
"""

import base64
import hmac
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
from data import formats, opened
from data.files import Refusal
from solvers.run import call as call  # now, so that nobody who presses waits for it
from solvers.run import door
from solvers.run.command import Parser, whole

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SERVED = re.compile(  # of what gradio has, not its uploads, files, proxies and editors
    r"/|/(assets|static|svelte|scan|mask|take)/.*|/(config/?|theme\.css|favicon\.ico|manifest\.json)"
    r"|/gradio_api/(queue/(join|data)|heartbeat/\w+|startup-events|theme\.css|info/?|app_id/?|cancel|reset/?|run/\w+/?)"
)
HEADERS = {
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Guard:
    """ASGI middleware: hosts of ours (no DNS rebinding), visitors with the password, and routes of this page, no others."""

    def __init__(self, app: Any, hosts: Sequence[str], login: str):
        self.app, self.hosts = app, hosts
        self.login = f"Basic {base64.b64encode(login.encode()).decode()}" if login else ""

    def status(self, scope: Any) -> int:
        headers = {name: value.decode("latin1") for name, value in scope["headers"]}
        host = re.sub(r":\d+$", "", headers.get(b"host", "")).strip("[]")
        said = headers.get(b"authorization", "")
        if self.hosts and host not in self.hosts:
            return 421
        if self.login and not hmac.compare_digest(said.encode(), self.login.encode()):
            return 401
        return 200 if scope["type"] == "http" and SERVED.fullmatch(scope["path"]) else 404

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.datastructures import MutableHeaders
        from starlette.responses import Response

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if (status := self.status(scope)) == 200:
            return await self.app(scope, receive, guarded)
        asked = {"www-authenticate": 'Basic realm="Palimpsest"'} if status == 401 else {}
        await Response(status_code=status, headers=asked)(scope, receive, send)


def application(
    models: Sequence[str], most: int, hosts: Sequence[str] = (), login: str = ""
) -> Any:
    """The page as an ASGI application. models: priors beside the shipped ones. most: bytes of an upload."""
    import gradio
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import FileResponse
    from web_page import LOOK, TAKEN, blocks
    from web_session import Session

    app = FastAPI(openapi_url=None)

    def visited(token: str) -> Session:
        if token not in Session.open:
            raise HTTPException(404, "this page was closed; load it again")
        return Session.open[token]

    @app.post("/{kind}/{token}")
    async def receive(
        kind: str, token: str, request: Request, suffix: str = "", width: int = 1
    ) -> dict[str, str]:
        session, suffix = visited(token), suffix.lower()
        folder = Path(tempfile.mkdtemp(prefix="sent-", dir=session.folder))
        path, size = folder / "mask", 0
        try:
            if kind == "scan":
                path = folder / f"scan{allowed(suffix)}"
            with path.open("wb") as file:  # to its end, or the browser would not read the answer
                async for piece in request.stream():
                    size += len(piece)
                    file.write(piece if size <= most else b"")
            if size > most:
                allows = "--max-upload-mb of scripts/web.py allows more"
                raise Refusal(f"the file is larger than {most >> 20} MB; {allows}")
            take = session.receive if kind == "scan" else session.mask
            await run_in_threadpool(take, path, width)
            return {}
        except Exception as error:
            shutil.rmtree(folder)
            return {"refused": session.said(error)}

    @app.get("/take/{token}/{what}")
    def take(token: str, what: str) -> Any:
        session = visited(token)
        if session.result is None or what not in TAKEN:
            raise HTTPException(404)
        try:
            path = session.take(what)
        except Refusal as error:
            raise HTTPException(409, session.said(error)) from error
        return FileResponse(path, filename=path.name)

    look = {**LOOK, "footer_links": [], "ssr_mode": False, "show_error": False}
    app = gradio.mount_gradio_app(app, blocks(models), path="/", **look)
    app.add_middleware(Guard, hosts=hosts, login=login)
    return app


def allowed(suffix: str) -> str:
    if suffix and suffix not in opened.SUFFIXES:  # DICOM files often have none
        raise Refusal(
            f"files called *{suffix[:12]} are not read; {', '.join(opened.SUFFIXES)} are allowed"
        )
    return suffix


def main(argv: Sequence[str]) -> int:
    parser = Parser("web.py", __doc__)
    add = parser.add_argument
    does = "the address to listen on; others than loopback need --user"
    add("--host", default="127.0.0.1", help=does)
    add("--port", type=int, default=7860)
    add("--user", default="", metavar="NAME")
    add("--password-file", type=Path, metavar="FILE", help="its first line is the password")
    does = "priors of your own to choose from"
    add("--model", nargs="+", default=[], metavar="FOLDER", help=does)
    add("--max-upload-mb", type=whole, default=256, metavar="N")
    return door.run(parser.prog, argv, lambda: serve(parser.parse_args(argv)))


def serve(options: Any) -> None:
    """Listen until interrupted. Raises Refusal for an address that others reach, without a user and a password."""
    local, most = options.host in LOOPBACK, options.max_upload_mb << 20
    if bool(options.user) != bool(options.password_file) or not (local or options.user):
        both = "--user NAME and --password-file FILE go together, and are needed off loopback"
        raise Refusal(f"--host {options.host}: {both}")
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
        does = "make web, or pip install -e '.[web]', does that"
        raise Refusal(f"{error.name} is not installed; {does}") from error
    from web_session import Session

    print(f"Palimpsest: http://{options.host}:{options.port}/   (Ctrl-C ends it)", flush=True)
    quiet: Any = {"log_level": "warning", "timeout_graceful_shutdown": 2}
    try:
        uvicorn.run(app, host=options.host, port=options.port, **quiet)
    finally:
        for session in list(Session.open.values()):
            session.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
