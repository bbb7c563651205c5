"""The page's server, from its socket and its first address to its end by a signal."""

import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn

from colorjax.colorizer import Colorizer
from colorjax.config import ConfigError
from colorjax.web.server import application
from colorjax.web.session import Session

_LOCAL = ("127.0.0.1", "localhost", "::1")


def allowed_hosts(host: str, port: int) -> set[str]:
    """List the values of `Host` that mean this server, listening on a host's port."""
    names = {host, *_LOCAL} if host in _LOCAL else {host}
    if host in ("0.0.0.0", "::"):  # every address of this machine
        own = socket.gethostname()
        names = {*_LOCAL, own}
        with suppress(OSError):
            names |= {str(found[4][0]) for found in socket.getaddrinfo(own, None)}
    return {f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in names}


def serve(
    load: Callable[[], Colorizer],
    photographs: list[Path],
    host: str = "127.0.0.1",
    port: int = 0,
    browser: bool = True,
    weights: str | None = None,
) -> int:
    """Serve the page until it is told to end; return the exit status.

    Args:
        load: gives the network.
        photographs: to open at the start, read where they lie.
        host: to listen on.
        port: likewise; 0 takes a free one.
        browser: open the page in the browser.
        weights: the file of the network, as the page's commands name it; None for the default.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"--host {host} --port {port}: {error.strerror}: name others") from None
    port, token = listener.getsockname()[1], secrets.token_urlsafe(24)
    if host not in _LOCAL:
        print(
            f"warning: with --host {host} others on the network reach this page, and what is sent "
            "is not encrypted: whoever has the address below sees the photographs",
            file=sys.stderr,
            flush=True,
        )
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}/?token={token}"
    config = {"log_config": None, "access_log": False, "server_header": False, "ws": "none"}
    status, warming = 0, None
    try:
        with listener, Session(load(), photographs, weights=weights) as session:
            app = application(session, token, allowed_hosts(host, port))
            server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=1, **config))
            print(f"colorjax is at {address}\nCtrl-C ends it.", flush=True)
            warming = threading.Thread(target=session.warm, daemon=True)
            warming.start()
            if browser:
                webbrowser.open(address)
            server.run(sockets=[listener])
    except KeyboardInterrupt as stop:  # by which every signal ends it
        status = 128 + stop.args[0] if stop.args else 0
    if warming and warming.is_alive():  # in XLA, which cannot be stopped; Python's own end aborts
        sys.stdout.flush()
        os._exit(status)
    return status
