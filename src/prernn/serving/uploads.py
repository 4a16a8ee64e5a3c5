"""``POST /predict``: a whole video in, its rows out, one line of JSON each."""

import asyncio
import contextlib
import json
import logging
import tempfile
import threading
from collections.abc import AsyncIterator, Generator
from concurrent.futures import CancelledError
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from fastapi import HTTPException, Request
from fastapi.responses import StreamingResponse

from prernn.media.video import Reading, read_pictures
from prernn.serving.messages.answers import plain_row
from prernn.serving.messages.pictures import check_size
from prernn.serving.service import Service
from prernn.streaming.pace import FOLDER_RATE, Pace
from prernn.streaming.watch import watch

LOG = logging.getLogger("prernn.serving")

SLOWEST = 10_000
"""Bytes a second at which a body must arrive, on average, after the first `Limits.idle` seconds."""


class _Gone(Exception):
    """Raised when the rows are no longer read."""


async def rows_of_video(service: Service, request: Request, top: int) -> StreamingResponse:
    """Processes the video in the request's body from beginning to end, and sends its rows as they come.

    Its place is freed when the thread that processes it has ended.

    Raises:
        HTTPException: there is no video (422), or it is too large (413) or arrives too slowly (408).
        TurnedAway: there is no free place.
    """
    number = service.enter("video")
    folder = tempfile.TemporaryDirectory(
        prefix="prernn-video-"
    )  # its own folder, in case the upload is a list of files
    try:
        path = Path(folder.name) / "video"
        await _save(request, path, service)
    except BaseException:
        folder.cleanup()
        service.leave(number, "refused")
        raise
    rows = _Rows(service, number, folder, path, top)
    try:
        first = await rows.first()
    except BaseException:
        rows.leave()
        raise
    return StreamingResponse(_lines(rows, first), media_type="application/x-ndjson")


async def _save(request: Request, path: Path, service: Service) -> None:
    """Writes the body to a file."""
    limits, begin, size = service.limits, monotonic(), 0
    chunks = aiter(request.stream())
    with path.open("wb") as file:
        while True:
            patience = limits.idle + size / SLOWEST - (monotonic() - begin)
            try:
                chunk = await asyncio.wait_for(anext(chunks), max(patience, 0.0))
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise HTTPException(408, f"expected at least {SLOWEST} bytes a second") from None
            size += len(chunk)
            if size > limits.video_bytes:
                raise HTTPException(413, f"expected a video of at most {limits.video_bytes} bytes, got more")
            file.write(chunk)


class _Rows:
    """A video's rows, computed in a thread as fast as they are read."""

    def __init__(self, service: Service, number: int, folder: Any, path: Path, top: int):
        self._service, self._number, self._folder, self._path, self._top = service, number, folder, path, top
        self._loop, self._gone = asyncio.get_running_loop(), False
        self._queue: asyncio.Queue[Any] = asyncio.Queue(64)
        threading.Thread(target=self._run, name="video", daemon=True).start()

    def _run(self) -> None:
        torch.set_num_threads(1)
        why = "left"
        try:
            why = self._follow()
        except _Gone:
            pass
        finally:
            self._folder.cleanup()
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._service.leave, self._number, why)

    def _follow(self) -> str:
        """Puts rows, and finally None or the error that occurred; returns how it ended."""
        model = self._service.model
        clock = model.clock()
        try:
            watch(model.watcher(), self._path, frames=self._frames(clock), pace=clock, on_row=self._put_row)
        except (ValueError, NotImplementedError) as error:
            self._put(error)
            return "refused"
        except _Gone:
            raise
        except Exception as error:
            LOG.exception("a video ended")
            self._put(RuntimeError(f"internal error; the server's log has it: {type(error).__name__}"))
            return "error"
        self._put(None)
        return "end"

    def _frames(self, clock: Pace) -> Generator[tuple[float, Any], None, None]:
        """The video's frames, as long as they are needed; raises ValueError if it is too large."""
        deinterlace = self._service.model.task.deinterlace
        reading = Reading(fps=clock.rate or FOLDER_RATE, deinterlace=deinterlace, on_jump=clock.jumped_back)
        pictures: Any = read_pictures(self._path, reading)
        with contextlib.closing(pictures):
            for time, make in pictures:
                if self._gone or self._service.stopped:
                    raise _Gone
                shown = make()
                check_size(shown.shape[1], shown.shape[0], self._service.limits.pixels)
                yield time, shown

    def _put_row(self, row: Any) -> None:
        self._put(plain_row(row, self._service.model.labels, self._top))

    def _put(self, item: Any) -> None:
        if self._gone:
            raise _Gone
        putting = asyncio.run_coroutine_threadsafe(self._queue.put(item), self._loop)
        try:
            putting.result(self._service.limits.idle)
        except (TimeoutError, CancelledError):  # the rows are no longer read
            putting.cancel()
            raise _Gone from None

    async def first(self) -> dict[str, Any] | None:
        """The first row, None if there is none; raises HTTPException if there is no video."""
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise HTTPException(500 if isinstance(item, RuntimeError) else 422, self._told(item))
        return item

    async def rest(self) -> AsyncIterator[dict[str, Any]]:
        """The other rows; if the video breaks off, the last one says so."""
        while (item := await self._queue.get()) is not None:
            if isinstance(item, Exception):
                yield {"error": self._told(item)}
                return
            yield item

    def _told(self, error: Exception) -> str:
        """An error message without the temporary name of the video."""
        return str(error).replace(f"{self._path}: ", "").replace(str(self._path), "the video")

    def leave(self) -> None:
        """Ends the thread with its next frame."""
        self._gone = True
        while not self._queue.empty():
            self._queue.get_nowait()


async def _lines(rows: _Rows, first: dict[str, Any] | None) -> AsyncIterator[str]:
    try:
        if first is not None:
            yield json.dumps(first) + "\n"
            async for row in rows.rest():
                yield json.dumps(row) + "\n"
    finally:
        rows.leave()
