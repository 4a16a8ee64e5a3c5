"""``POST /predict``: a whole video in, its rows out, a line of JSON each."""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException, Request
from fastapi.responses import StreamingResponse

from prernn.media.video import probe
from prernn.serving.messages.answers import plain_row
from prernn.serving.pictures import check_size
from prernn.serving.service import Service
from prernn.streaming.watch import watch


class _Gone(Exception):
    """Nobody reads the rows any more."""


async def rows_of_video(service: Service, request: Request, top: int) -> StreamingResponse:
    """Follows the video in the request's body from beginning to end, and gives its rows as they come.

    Raises:
        HTTPException: no video (422), one that is too large (413).
        TurnedAway: there is no place.
    """
    number = service.enter("video")
    try:
        rows = _Rows(service, await _saved(request, service.limits.video_bytes), top)
        try:
            first = await rows.first()
        except BaseException:
            rows.leave()
            raise
    except BaseException:
        service.leave(number, "refused")
        raise
    return StreamingResponse(_lines(service, number, rows, first), media_type="application/x-ndjson")


async def _saved(request: Request, most: int) -> Path:
    """The body as a file."""
    handle, name = tempfile.mkstemp(prefix="prernn-video-")
    size = 0
    try:
        with os.fdopen(handle, "wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise HTTPException(413, f"expected a video of at most {most} bytes, got more")
                file.write(chunk)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


class _Rows:
    """A video's rows, followed in a thread as fast as they are read."""

    def __init__(self, service: Service, path: Path, top: int):
        self._model, self._path, self._top, self._limits = service.model, path, top, service.limits
        self._loop, self._gone = asyncio.get_running_loop(), False
        self._queue: asyncio.Queue[Any] = asyncio.Queue(64)
        self._task = asyncio.ensure_future(asyncio.to_thread(self._follow))

    def _follow(self) -> None:
        torch.set_num_threads(1)
        last: Any = None
        try:
            about = probe(self._path)
            check_size(about.width, about.height, self._limits.pixels)
            watch(self._model.watcher(), self._path, on_row=self._hand_over, pace=self._model.clock())
        except _Gone:
            return
        except (ValueError, NotImplementedError) as error:
            last = error
        finally:
            self._path.unlink(missing_ok=True)
        self._put(last)

    def _hand_over(self, row: Any) -> None:
        self._put(plain_row(row, self._model.labels, self._top))

    def _put(self, item: Any) -> None:
        if self._gone:
            raise _Gone
        asyncio.run_coroutine_threadsafe(self._queue.put(item), self._loop).result()

    async def first(self) -> dict[str, Any] | None:
        """The first row, None where there is none; raises HTTPException for what is no video."""
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise HTTPException(422, self._told(item))
        return item

    async def rest(self) -> AsyncIterator[dict[str, Any]]:
        """The other rows; where the video breaks off, the last one says so."""
        while (item := await self._queue.get()) is not None:
            if isinstance(item, Exception):
                yield {"error": self._told(item)}
                return
            yield item

    def _told(self, error: Exception) -> str:
        """An error, without the name that the video has here."""
        return str(error).replace(f"{self._path}: ", "").replace(str(self._path), "the video")

    def leave(self) -> None:
        """Ends the thread with its next row."""
        self._gone = True
        while not self._queue.empty():
            self._queue.get_nowait()


async def _lines(service: Service, number: int, rows: _Rows, first: dict[str, Any] | None) -> AsyncIterator[str]:
    why = "left"
    try:
        if first is not None:
            yield json.dumps(first) + "\n"
            async for row in rows.rest():
                yield json.dumps(row) + "\n"
        why = "end"
    finally:
        rows.leave()
        service.leave(number, why)
