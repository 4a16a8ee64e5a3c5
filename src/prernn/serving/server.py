"""The server as a process: where it listens, and how it stops."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from prernn.serving.app import app_for
from prernn.serving.live import ABORT
from prernn.serving.service import Service


class Protocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which an application can also end at once, even if not everything has been sent yet.

    Closing waits until everything is sent, which never happens if a client does not read.
    """

    def handle_connect(self, event: Request) -> None:
        """Begins, and puts the function that ends it at once into the scope."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][ABORT] = self.transport.abort  # type: ignore[index, assignment]


class Server(uvicorn.Server):
    """Answers waiting frames before it stops; at a second signal it stops at once.

    Args:
        service: what is served.
        host: address to listen on.
        port: port number, 0 for a free one.
        grace: seconds for answering waiting frames when it stops.
        certificate: PEM file for TLS.
        key: PEM file with the certificate's key.
        on_ready: called with the address, once it listens.
        page: whether to serve the page for browsers at ``/``.

    Raises:
        ValueError: an address other than this machine's own without a token; an invalid port or certificate.
        OSError: (when it is run) it can't listen on the address.
    """

    def __init__(
        self,
        service: Service,
        host: str = "127.0.0.1",
        port: int = 8000,
        grace: float = 10.0,
        certificate: str | None = None,
        key: str | None = None,
        on_ready: Callable[[str], None] = lambda address: None,
        page: bool = False,
    ):
        if service.token is None and not is_loopback(host):
            raise ValueError(f"--host {host}: expected a --token if other machines can connect, got none")
        if not 0 <= port <= 65535:
            raise ValueError(f"--port: expected 0 to 65535, got {port}")
        _check_certificate(certificate, key)
        config = uvicorn.Config(
            app_for(service, page),
            host=host,
            port=port,
            log_config=None,  # uvicorn's would close the handlers of the program that the server runs in
            log_level="warning",
            ws=Protocol,  # which continues reading only when a message has been taken
            ws_max_size=service.limits.message_bytes,
            ws_per_message_deflate=False,  # JPEG does not compress further
            timeout_graceful_shutdown=5,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        super().__init__(config)
        self._on_ready = on_ready
        self.service, self.grace = service, grace
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """The address it listens on, as http://HOST:PORT."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        scheme = "https" if self.config.ssl_certfile else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts listening."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets or [_listening(self.config.host, self.config.port)])
        if self.started:
            self._on_ready(self.address)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to stop, or stops at once if it has already begun."""
        if self.service.stopping:
            self.should_exit = self.force_exit = True
        self.stop()

    def stop(self) -> None:
        """Accepts no new clients, answers waiting frames, then ends; callable from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin_to_stop)

    def _begin_to_stop(self) -> None:
        if not self.service.stopping:
            self.service.stopping = True
            self._task = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        await self.service.drain(self.grace)
        self.should_exit = True


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens. If it can't, OSError names the address; uvicorn would only log it and exit."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(error.errno, f"can't listen: {error.strerror}", f"{host}:{port}") from error


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which no other machine can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_certificate(certificate: str | None, key: str | None) -> None:
    for option, path in (("--certificate", certificate), ("--key", key)):
        if path is not None and not Path(path).is_file():
            raise ValueError(f"{option}: {path}: no such file")
    if certificate is None:
        if key is not None:
            raise ValueError("--key: expected a --certificate with it")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise ValueError(f"--certificate: {certificate}: expected a PEM certificate and its key: {error}") from error
