"""The page served on this machine: nothing of it comes from elsewhere, and nothing that it was given stays."""

import errno
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fptt.detection.detector import Detector
from fptt.errors import InputError

PORTS = range(7860, 7960)  # of which the first free one is taken: where Gradio's pages usually are
LARGEST = "500mb"  # file that may be given


@contextmanager
def served(
    detector: Detector, weights: str, host: str = "127.0.0.1", port: int | None = None, open: bool = False
) -> Iterator[str]:
    """The address of the page of ``detector``, whose file is called ``weights``, while the context lasts.

    Args:
        host: address to listen at; the default takes visitors from this machine alone.
        port: default is a free one.
        open: show it in the browser.

    Raises:
        InputError: where Gradio is missing, the port is taken, or the host is none of this machine's.
    """
    port = free(host, port)
    with tempfile.TemporaryDirectory(prefix="fptt-web-", ignore_cleanup_errors=True) as folder:
        # before Gradio is imported, which else would report its use, and ask through a proxy whether its own page is there
        direct = ",".join(filter(None, (os.environ.get("no_proxy", os.environ.get("NO_PROXY")), host, "127.0.0.1,localhost")))
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED="False", NO_PROXY=direct, no_proxy=direct)
        try:
            from fptt.web.page import Page
            from fptt.web.theme import CSS, theme
        except ImportError as error:
            raise InputError(f"the page needs the package gradio ({error}): pip install 'fptt[web]'") from None
        from fptt.web.viewer import Viewer

        blocks = Page(Viewer(detector, Path(folder)), weights).blocks
        _, address, _ = blocks.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            inbrowser=open,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            mcp_server=False,
            ssr_mode=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            max_file_size=LARGEST,
            theme=theme(),
            css_paths=CSS,
        )
        try:
            yield address
        finally:
            blocks.server.force_exit = True  # without waiting for pages that are still open,
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # of which there would be a traceback each
            blocks.close(verbose=False)


def free(host: str, port: int | None) -> int:
    """``port``, or the first of ``PORTS`` that is free.

    Raises InputError where there is none, or ``host`` is no address of this machine.
    """
    if port is not None and not 0 < port < 2**16:
        raise InputError(f"--port must lie between 1 and 65535, got {port}")
    for number in PORTS if port is None else (port,):
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(address)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise InputError(
                    f"--host {host} cannot be listened at ({error.strerror}): give an address of this machine"
                ) from None
        else:
            return number
    which = f"--port {port} is taken" if port else f"the ports {PORTS[0]} to {PORTS[-1]} are taken"
    raise InputError(f"{which}, or not for you to use: give another --port{' or none' if port else ''}")
