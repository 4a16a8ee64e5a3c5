"""The WebSocket ``/stream``: a hello, then frames in and answers out."""

import asyncio
import json
from typing import Any

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from prernn.serving.limits import Allowance
from prernn.serving.messages.hello import Hello, hello_of
from prernn.serving.service import Service, TurnedAway
from prernn.serving.session import Session

ABORT = "prernn.abort"
"""In a socket's extensions, what ends it at once (`prernn.serving.server.Protocol`)."""

PATIENCE = 2.0
"""Seconds for a last word to a client that may not read."""

POLICY, LATER = 1008, 1013
"""Codes with which a WebSocket closes: a rule was broken; come again later."""


async def live(service: Service, socket: WebSocket, token: str | None) -> None:
    """Serves one client from its hello to its end."""
    await socket.accept()
    try:
        hello = await _greeting(service, socket, token)
        number = service.enter("stream")
    except (TurnedAway, ValueError, TimeoutError, WebSocketDisconnect) as error:
        why = error.why if isinstance(error, TurnedAway) else "hello"
        service.metrics.turned_away.labels(why).inc()
        text = f"expected a hello within {service.limits.hello:g} s" if isinstance(error, TimeoutError) else str(error)
        await _goodbye(socket, text, LATER if why in ("full", "stopping") else POLICY)
        return
    connection, why = _Connection(service, socket, hello), "error"
    try:
        why = await connection.serve(number)
    finally:
        service.leave(number, why)


async def _greeting(service: Service, socket: WebSocket, token: str | None) -> Hello:
    message = await asyncio.wait_for(socket.receive(), service.limits.hello)
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    if message.get("text") is None:
        raise ValueError("expected a hello as JSON first, got a frame")
    hello = hello_of(message["text"])
    service.check(token, hello.token)
    return hello


class _Connection:
    """A client's socket and session: frames go from the one to the other, answers back."""

    def __init__(self, service: Service, socket: WebSocket, hello: Hello):
        self._service, self._socket, self._hello = service, socket, hello
        self._loop = asyncio.get_running_loop()
        self._answers: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._why, self._over = "end", False  # what the session ends with; whether the client knows that it has
        self._frames = Allowance(service.limits.fps)
        self._bytes = Allowance(service.limits.bytes_per_second)

    async def serve(self, number: int) -> str:
        """Runs until either side has had enough; gives why it ended."""
        limits, metrics = self._service.limits, self._service.metrics
        try:
            session = await asyncio.to_thread(
                Session, self._service.model, self._hello, limits, metrics, self._say, self._has_room, self._ended
            )
        except (ValueError, NotImplementedError) as error:
            await _goodbye(self._socket, str(error), POLICY)
            return "refused"
        self._service.begin(number, session)
        sending = asyncio.create_task(self._send())
        receiving = asyncio.create_task(self._receive(session))
        try:
            await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():  # the client has gone, or broke a rule
                why = await self._away(session, receiving.result(), sending)
                return self._why if self._over else why
            return sending.result()
        finally:
            session.end("left", at_once=True)
            sending.cancel()
            receiving.cancel()

    async def _away(self, session: Session, why: str, sending: "asyncio.Task[str]") -> str:
        """Ends for a client that has ended, has gone, or is sent away; gives why."""
        if why == "end":
            session.end("end")
            return await sending
        session.end(why, at_once=True)
        sending.cancel()
        if why != "left":
            texts = {"idle": f"nothing came for {self._service.limits.idle:g} s", "unread": "answers were not read"}
            await _goodbye(self._socket, texts[why], POLICY)
        return why

    async def _receive(self, session: Session) -> str:
        """Takes frames and orders; gives why no more are to come."""
        while True:
            try:
                message = await asyncio.wait_for(self._socket.receive(), self._service.limits.idle)
            except TimeoutError:
                return "idle"
            if message["type"] == "websocket.disconnect":
                return "left"
            if self._answers.qsize() > self._service.limits.unread:
                return "unread"
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
        """Waits until a message is within the limits; of a session's frame that may be dropped gives False instead."""
        for allowance, amount in ((self._frames, 1.0), (self._bytes, float(size))):
            while wait := allowance.take(amount):
                if session is not None and self._hello.drop == "oldest":
                    session.skip()
                    return False
                await asyncio.sleep(wait)
        return True

    async def _send(self) -> str:
        """Sends answers until the session has said its last word; gives why it did."""
        try:
            while (answer := await self._answers.get()) is not None:
                await self._socket.send_text(json.dumps(answer))
                self._over = answer["type"] == "end"
                if answer["type"] == "error":
                    await self._socket.close(POLICY)
                    return self._why
            await self._socket.close(1000)
        except (RuntimeError, WebSocketDisconnect):  # the client has gone, or had what it wanted
            return self._why if self._over else "left"
        return self._why

    def _say(self, answer: dict[str, Any]) -> None:
        self._on_loop(self._answers.put_nowait, answer)

    def _has_room(self) -> None:
        self._on_loop(self._room.set)

    def _ended(self, why: str) -> None:
        self._why = why
        self._on_loop(self._answers.put_nowait, None)

    def _on_loop(self, call: Any, *arguments: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)


def _order_in(text: str) -> str | None:
    try:
        order = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return order.get("type") if isinstance(order, dict) and isinstance(order.get("type"), str) else None


async def _goodbye(socket: WebSocket, text: str, code: int) -> None:
    """Says why, where the client is still there and reads, and closes."""
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
