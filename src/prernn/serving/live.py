"""The WebSocket ``/stream``: a hello, then frames in and answers out."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from prernn.serving.limits import Allowance
from prernn.serving.messages.hello import Hello, hello_of
from prernn.serving.service import Service, TurnedAway
from prernn.serving.session import Session

ABORT = "prernn.abort"
"""The key in a socket's extensions of a function that ends it at once (`prernn.serving.server.Protocol`)."""

PATIENCE = 2.0
"""Seconds for a last message to a client that may not read it."""

POLICY, LATER = 1008, 1013
"""Codes with which a WebSocket closes: a rule was broken; try again later."""


async def live(service: Service, socket: WebSocket, token: str | None) -> None:
    """Serves one client from its hello to the end."""
    await socket.accept()
    try:
        with service.greeting():
            hello, state = await _greeting(service, socket, token)
            number = service.enter("stream")
    except (TurnedAway, ValueError, TimeoutError, WebSocketDisconnect) as error:
        why = error.why if isinstance(error, TurnedAway) else "hello"
        service.metrics.turned_away.labels(why).inc()
        text = f"expected a hello within {service.limits.hello:g} s" if isinstance(error, TimeoutError) else str(error)
        await _goodbye(socket, text, LATER if why in ("full", "stopping") else POLICY)
        return
    await _Connection(service, socket, hello, number).serve(state)


async def _greeting(service: Service, socket: WebSocket, token: str | None) -> tuple[Hello, bytes | None]:
    """A client's hello, and the state that it sends with it."""
    check_origin(socket.headers)
    async with asyncio.timeout(service.limits.hello):
        message = await _received(socket)
        if message.get("text") is None:
            raise ValueError("expected a hello as JSON first, got a frame")
        hello = hello_of(message["text"])
        service.check(token, hello.token)
        if not hello.state:
            return hello, None
        state = (await _received(socket)).get("bytes")
        if state is None:
            raise ValueError("state: expected it as a binary message after the hello, got text")
        return hello, state


async def _received(socket: WebSocket) -> Any:
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    return message


def check_origin(headers: Mapping[str, str]) -> None:
    """Raises TurnedAway for a page of another site, open in a browser on this machine."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        raise TurnedAway("origin", f"expected a page of {headers.get('host')}, got one of {origin}")


class _Connection:
    """A client's socket and session: frames go from socket to session, answers back.

    The client's place becomes free only when its session's thread has ended.
    """

    def __init__(self, service: Service, socket: WebSocket, hello: Hello, number: int):
        self._service, self._socket, self._hello, self._number = service, socket, hello, number
        self._loop = asyncio.get_running_loop()
        self._answers: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._room, self._unread = asyncio.Event(), asyncio.Event()
        self._frames = Allowance(service.limits.fps)
        self._bytes = Allowance(service.limits.bytes_per_second)

    async def serve(self, state: bytes | None) -> None:
        """Runs until either side ends it."""
        limits, metrics = self._service.limits, self._service.metrics
        calls = (self._say, self._has_room, self._ended, state)
        try:
            session = await asyncio.to_thread(Session, self._service.model, self._hello, limits, metrics, *calls)
        except BaseException as error:
            self._service.leave(self._number, "refused")
            if not isinstance(error, ValueError | NotImplementedError):
                raise
            await _goodbye(self._socket, str(error), POLICY)
            return
        self._service.begin(self._number, session)
        sending = asyncio.create_task(self._send())
        receiving = asyncio.create_task(self._receive(session))
        unread = asyncio.create_task(self._unread.wait())
        try:
            await asyncio.wait({sending, receiving, unread}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():  # the client has gone, or broke a rule
                await self._away(session, "unread" if unread.done() else receiving.result(), sending)
        finally:
            session.end("left", at_once=True)
            for task in (sending, receiving, unread):
                task.cancel()
            self._loop.call_later(PATIENCE, _abort, self._socket)  # even if not everything was read

    async def _away(self, session: Session, why: str, sending: "asyncio.Task[None]") -> None:
        """Ends the connection of a client that has ended, has gone, or is disconnected."""
        if why == "end":
            session.end("end")
            try:
                await asyncio.wait_for(sending, self._service.limits.idle)
            except TimeoutError:
                session.end("unread", at_once=True)
            return
        session.end(why, at_once=True)
        sending.cancel()
        if why != "left":
            texts = {"idle": f"nothing came for {self._service.limits.idle:g} s", "unread": "answers were not read"}
            await _goodbye(self._socket, texts[why], POLICY)

    async def _receive(self, session: Session) -> str:
        """Takes frames and orders; returns the reason why no more will come."""
        while True:
            try:
                message = await asyncio.wait_for(self._socket.receive(), self._service.limits.idle)
            except TimeoutError:
                return "idle"
            if message["type"] == "websocket.disconnect":
                return "left"
            text, data = message.get("text"), message.get("bytes")
            if text is None:
                if data is not None and await self._allowed(len(data), session):
                    await self._frame(session, data)
                continue
            await self._allowed(len(text))
            match _order_in(text):
                case "end":
                    return "end"
                case "reset":
                    session.order("reset")
                case "state":
                    session.order("state")
                case _:
                    self._say({"type": "refused", "error": 'expected {"type": "reset"}, "state" or "end"'})

    async def _frame(self, session: Session, data: bytes) -> None:
        while session.mailbox.full:
            self._room.clear()
            if session.mailbox.full:
                await self._room.wait()
        session.offer(data)

    async def _allowed(self, size: int, session: Session | None = None) -> bool:
        """Waits until a message is within the limits; returns False for a session's frame that may be dropped."""
        for allowance, amount in ((self._frames, 1.0), (self._bytes, float(size))):
            while wait := allowance.take(amount):
                if session is not None and self._hello.drop == "oldest":
                    session.skip()
                    return False
                await asyncio.sleep(wait)
        return True

    async def _send(self) -> None:
        """Sends answers until the session has sent its last one."""
        code = 1000
        try:
            while (answer := await self._answers.get()) is not None:
                await self._socket.send_text(json.dumps(answer))
                code = POLICY if answer["type"] == "error" else code
            await self._socket.close(code)
        except (RuntimeError, WebSocketDisconnect):  # the client has gone, or has disconnected
            return

    def _say(self, answer: dict[str, Any]) -> None:
        self._on_loop(self._queue, answer)

    def _queue(self, answer: dict[str, Any]) -> None:
        self._answers.put_nowait(answer)
        if self._answers.qsize() > self._service.limits.unread:
            self._unread.set()

    def _has_room(self) -> None:
        self._on_loop(self._room.set)

    def _ended(self, why: str) -> None:
        self._on_loop(self._service.leave, self._number, why)
        self._on_loop(self._answers.put_nowait, None)

    def _on_loop(self, call: Any, *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call, *arguments)


LONGEST_ORDER = 1000
"""Characters."""


def _order_in(text: str) -> str | None:
    if len(text) > LONGEST_ORDER:
        return None
    try:
        order = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return order.get("type") if isinstance(order, dict) and isinstance(order.get("type"), str) else None


async def _goodbye(socket: WebSocket, text: str, code: int) -> None:
    """Sends the reason if the client is still there and reads, and closes."""
    try:
        async with asyncio.timeout(PATIENCE):
            if socket.client_state == WebSocketState.CONNECTED:
                await socket.send_text(json.dumps({"type": "error", "error": text}))
                await socket.close(code)
    except TimeoutError:
        _abort(socket)
    except (RuntimeError, WebSocketDisconnect):  # it has gone
        return


def _abort(socket: WebSocket) -> None:
    socket.scope["extensions"].get(ABORT, lambda: None)()
