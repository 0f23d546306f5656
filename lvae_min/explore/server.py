"""A page on this machine to explore runs and to move the latents of their networks by hand (Fig. 4).

    python -m lvae_min.explore                     the runs in runs/, or a first one, which it can start
    python -m lvae_min.explore runs/NAME           one run, also while it trains
    python -m lvae_min.explore --port 8000 --no-browser

Needs the extra: pip install -e ".[explore]". The page is served on 127.0.0.1 alone, and nothing leaves the
machine: no telemetry, no share link, no fonts or scripts from elsewhere.
"""

import argparse
import errno
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import webbrowser
from pathlib import Path
from threading import Lock, Timer
from typing import IO

from lvae_min.io.text import Parser, brief, carry_out, one_line

HOST = "127.0.0.1"
RUN = ["-m", "lvae_min"]
QUICK_START = ["--dataset", "dsprites", "--model", "lvae"]
# Content security policy: the browser fetches from this server alone, whatever the page contains.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


class Training:
    """The run of the quick start, in a process of its own."""

    def __init__(self, gallery):
        where = ["--out", str(gallery.folder), "--data", str(gallery.archives)]
        self.command = [sys.executable, *RUN, *QUICK_START, *where]
        self.process: subprocess.Popen | None = None
        self.output: IO[bytes]
        self.lock = Lock()

    def start(self) -> None:
        """Start it, unless it is running. Ctrl-C does not reach it; `stop` ends it."""
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                if self.process is not None:
                    self.output.close()
                self.output = tempfile.TemporaryFile()
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=self.output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def message(self) -> str:
        """The state of a run whose folder is not there yet; empty if none was started."""
        if self.process is None or self.process.poll() == 0:
            return ""
        if self.process.poll() is None:
            return "Starting: the images are drawn and the network is made, a few seconds ..."
        self.output.seek(0)
        last = self.output.read().decode(errors="replace").strip().splitlines()[-1:]
        return f"The training failed: {one_line(last[0])[:300] if last else self.process.returncode}"

    def stop(self) -> None:
        """End the process; its run keeps a checkpoint."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
            print(f"explore: the run in training was stopped; continue it with {shlex.join(self.command)}")


def import_gradio():
    """gradio, silent. Raises ValueError if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before it is imported
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise ValueError(f'the page needs gradio ({brief(error)}): pip install -e ".[explore]"') from None
    return gradio


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1. Raises ValueError if the port cannot be had."""
    if not 0 <= port < 2**16:
        raise ValueError(f"--port {port}: expected 0 to 65535 (0 is any that is free)")
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        own.bind((HOST, port))
        own.listen(128)
    except OSError as error:
        own.close()
        why = "is in use" if error.errno == errno.EADDRINUSE else one_line(error.strerror)
        raise ValueError(f"--port {port}: {why}; give another, or 0 for any that is free") from None
    return own


def serve(gr, blocks, own: socket.socket) -> None:
    """Serve the page until the process is interrupted."""
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from lvae_min.explore.page import CSS

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Another site's page cannot reach this one by a name of its own that leads to 127.0.0.1.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])

    @app.middleware("http")
    async def stay_here(request, answer):
        response = await answer(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    theme = gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["monospace"], spacing_size="sm", text_size="sm"
    )
    gr.mount_gradio_app(
        app,
        blocks,
        "/",
        server_name=HOST,
        server_port=own.getsockname()[1],
        theme=theme,
        css=CSS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
    )
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    # At the end uvicorn cuts the connections of open pages, and logs each as an error with a traceback.
    logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
    server.run(sockets=[own])


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m lvae_min.explore", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="?", help="folder of the runs, or one run (default: runs)")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder of archives and prepared sets (default: data)"
    )
    parser.add_argument(
        "--port", type=int, default=7860, help="on 127.0.0.1; 0 is any that is free (default: 7860)"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address and open no browser")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    given = parse(arguments)
    gradio = import_gradio()
    import torch  # not above: it takes a second

    from lvae_min.explore.gallery import open_folder
    from lvae_min.explore.page import page

    torch.set_num_threads(1)  # a few images: 10 ms, and with two threads 40 to 90 during a training run
    with listen(given.port) as own:
        gallery, first = open_folder(given.runs or Path("runs"), given.data, wanted=given.runs is not None)
        training = Training(gallery)
        blocks = page(gradio, gallery, first, training)
        address = f"http://{HOST}:{own.getsockname()[1]}"
        shown = gallery.folder / first if first else f"the runs in {gallery.folder}"
        print(f"explore: {address} shows {shown}; Ctrl-C ends it", flush=True)
        if not given.no_browser:
            Timer(1, webbrowser.open, [address]).start()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # the finally below is for it, too
        try:
            serve(gradio, blocks, own)
        except KeyboardInterrupt:
            pass
        finally:
            training.stop()


def command(arguments: list[str]) -> int:
    """`main`; a user's mistake is one line of error message and exit code 2."""
    return carry_out(main, arguments, "explore")
