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
    """uvicorn's WebSocket, which an application can also end at once, whatever it has not sent yet.

    Closing waits until everything is sent, which is for ever where a client does not read.
    """

    def handle_connect(self, event: Request) -> None:
        """Begins, with the way to end it in the scope."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["extensions"][ABORT] = self.transport.abort  # type: ignore[index, assignment]


class Server(uvicorn.Server):
    """Answers what waits before it stops; at a second signal it stops at once.

    Args:
        service: what is served.
        host: address that it listens at.
        port: number, 0 for one that is free.
        grace: seconds for what waits when it stops.
        certificate: PEM file for TLS.
        key: its key.
        on_ready: called with the address, once it listens.
        page: whether the page for browsers is at ``/``.

    Raises:
        ValueError: another address than this machine's own without a token; a port or certificate that is none.
        OSError: (when it is run) an address that it can't listen at.
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
            raise ValueError(f"--host {host}: expected a --token where others than this machine can come, got none")
        if not 0 <= port <= 65535:
            raise ValueError(f"--port: expected 0 to 65535, got {port}")
        _check_certificate(certificate, key)
        config = uvicorn.Config(
            app_for(service, page),
            host=host,
            port=port,
            log_level="warning",
            ws=Protocol,  # which reads on only when a message has been taken
            ws_max_size=service.limits.message_bytes,
            ws_per_message_deflate=False,  # JPEG does not shrink
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
        """Where it listens, as http://HOST:PORT."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        scheme = "https" if self.config.ssl_certfile else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets or [_listening(self.config.host, self.config.port)])
        if self.started:
            self._on_ready(self.address)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to stop, or stops at once if it has begun."""
        if self.service.stopping:
            self.should_exit = self.force_exit = True
        self.stop()

    def stop(self) -> None:
        """Lets nobody in any more, answers what waits, then ends; from any thread."""
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
    """A socket that listens; OSError, where it can't, names the address, while uvicorn would log it and end."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(error.errno, f"can't listen: {error.strerror}", f"{host}:{port}") from error


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, which nobody else can reach."""
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
