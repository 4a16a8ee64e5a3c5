"""A client of ``prernn serve``: frames out, answers in.

with prernn.client.connect("ws://127.0.0.1:8000/stream", top=3) as stream:
    for picture in pictures:  # JPEG bytes, or arrays uint8 (H, W, 3)
        print(stream.ask(picture))
"""

import base64
import contextlib
import io
import json
import os
import ssl
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as _connect


class Client:
    """A stream at a server. What it takes and says is described at the server's ``/docs``.

    Attributes:
        started: the server's answer to the hello.
    """

    def __init__(self, socket: ClientConnection, hello: dict[str, Any], state: str | None = None):
        self.socket, self._hello, self._sent = socket, hello, 0
        self.order(**hello, state=state is not None)
        if state is not None:
            self._put(base64.b64decode(state))
        self.started = self.receive()

    def send(self, frame: bytes | np.ndarray, time: float | None = None) -> None:
        """Sends a frame: as it is, or a picture ``(H, W, 3)`` as the hello says; with its time if that says so."""
        self._sent += 1
        data = frame if isinstance(frame, bytes) else self._encoded(frame)
        self._put((b"" if time is None else struct.pack("<d", time)) + data)

    def order(self, **message: Any) -> None:
        """Sends an order, such as ``type="reset"``, "state" or "end"."""
        self._put(json.dumps(message))

    def receive(self, timeout: float | None = None) -> dict[str, Any]:
        """The next answer. Raises ConnectionError where the server has gone or sent the client away, TimeoutError."""
        with _lost_as_connection_error():
            answer = json.loads(self.socket.recv(timeout))
        if answer["type"] == "error":
            raise ConnectionError(answer["error"])
        return answer

    def ask(self, frame: bytes | np.ndarray, time: float | None = None) -> dict[str, Any]:
        """Sends a frame and waits for its answer; what comes before it, such as held ticks, is passed over."""
        self.send(frame, time)
        while (answer := self.receive()).get("message") != self._sent - 1:
            pass
        return answer

    def state(self) -> str:
        """The stream's state after all frames sent, for `connect`; answers that come before it are passed over.

        Raises:
            ConnectionError: as `receive`. NotImplementedError: the network's task can't give one.
        """
        self.order(type="state")
        while (answer := self.receive())["type"] != "state":
            if answer["type"] == "refused" and "message" not in answer:  # an order, not a frame
                raise NotImplementedError(answer["error"])
        return answer["state"]

    def rest(self) -> Iterator[dict[str, Any]]:
        """Says that no more frames come, and yields all answers that are left, the last one of type "end"."""
        self.order(type="end")
        answer: dict[str, Any] = {"type": ""}
        while answer["type"] != "end":
            answer = self.receive()
            yield answer

    def _put(self, data: bytes | str) -> None:
        try:
            self.socket.send(data)
        except ConnectionClosed:
            while True:  # the last answer says why
                self.receive()

    def _encoded(self, picture: np.ndarray) -> bytes:
        if self._hello.get("frames") == "rgb":
            return np.ascontiguousarray(picture).tobytes()
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=90)
        return file.getvalue()


@contextlib.contextmanager
def _lost_as_connection_error() -> Iterator[None]:
    """websockets' exceptions are no ConnectionErrors, which is what a client that connects again waits for."""
    try:
        yield
    except ConnectionClosed as error:
        raise ConnectionError(f"the server has closed the connection: {error}") from error


@contextlib.contextmanager
def connect(
    url: str = "ws://127.0.0.1:8000/stream",
    *,
    token: str | None = None,
    certificate: str | os.PathLike[str] | None = None,
    state: str | None = None,
    **hello: Any,
) -> Iterator[Client]:
    """A stream at a server, for a while.

    Args:
        url: of the server.
        token: that it wants.
        certificate: PEM file to trust, for ``wss://`` with a certificate that no known authority has signed.
        state: one that a server gave, to go on from.
        hello: what the client says first, see the server's ``/docs``.

    Raises:
        ConnectionError: the server does not let it in, or goes. OSError: there is none, or it is not to be trusted.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else None
    trust = None if certificate is None else ssl.create_default_context(cafile=certificate)
    try:
        socket = _connect(url, additional_headers=headers, compression=None, max_size=None, ssl=trust)
    except InvalidHandshake as error:
        raise ConnectionError(f"{url}: {error}") from error
    with socket:
        yield Client(socket, hello, state)
