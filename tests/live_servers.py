"""Live sources on loopback that tests kill, freeze and slow: MJPEG and MPEG-TS over HTTP, and named pipes."""

import contextlib
import http.server
import io
import socket
import threading
import time

import av
import cv2
import numpy as np


def numbered(number, height=48, width=64):
    """A picture that shows the 16 bits of a number, a column of white or black for each, under a grey line."""
    bits = [255 * (number >> bit & 1) for bit in range(16)]
    picture = np.repeat(np.array(bits, np.uint8), width // 16)[None, :, None]
    return np.repeat(np.repeat(picture, height, 0), 3, 2)


def number_of(picture):
    """The number that a picture shows, whatever its size."""
    height, width, _ = picture.shape
    columns = picture[height // 4 : 3 * height // 4].mean((0, 2)).reshape(16, width // 16).mean(1)
    return sum(1 << bit for bit, level in enumerate(columns) if level > 127)


class LiveServer:
    """An HTTP server whose every client gets frames from now on, in multipart JPEG or MPEG-TS.

    Args:
        fps: frames a second.
        form: "mjpeg" or "ts".
        size: (height, width) of a frame, by its number.
        port: to listen on; 0 takes a free one.

    Attributes:
        url: where it is.
        sent: reading of `time.monotonic` when a number was first sent.
        frozen: while set, it sends nothing, and answers nobody.
        fps: may be changed.
    """

    def __init__(self, fps=20.0, form="mjpeg", size=lambda number: (48, 64), port=0):
        self.fps, self.frozen, self.sent, self._size = fps, threading.Event(), {}, size
        self._gone, self._started, self._sockets = threading.Event(), time.monotonic(), []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                server._sockets.append(self.connection)
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server._wait_while_frozen()
                with contextlib.suppress(OSError, ValueError):  # the client has gone, or the server
                    getattr(server, f"_send_{form}")(self)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads, allow_reuse_address, request_queue_size = True, True, 50

        self._http = Server(("127.0.0.1", port), Handler)
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}/live"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()

    def kill(self):
        """Ends at once, in the middle of whatever it sends, as a process that is killed."""
        self._gone.set()
        self._http.shutdown()
        self._http.server_close()
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _wait_while_frozen(self):
        while self.frozen.is_set() and not self._gone.is_set():
            time.sleep(0.01)

    def _numbers(self):
        """Frame numbers, each when it is due."""
        number, due = 0, time.monotonic()
        while not self._gone.is_set():
            self._wait_while_frozen()
            due = max(due + 1 / self.fps, time.monotonic() - 1 / self.fps)
            time.sleep(max(0.0, due - time.monotonic()))
            self.sent.setdefault(number, time.monotonic())
            yield number
            number += 1

    def _send_mjpeg(self, handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        for number in self._numbers():
            jpeg = cv2.imencode(".jpg", numbered(number, *self._size(number)))[1].tobytes()
            head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
            handler.wfile.write(head + jpeg + b"\r\n")

    def _send_ts(self, handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp2t")
        handler.end_headers()
        stamp = 0
        numbers, size = self._numbers(), None
        following = next(numbers, None)
        while following is not None:  # a new size needs an encoder of its own
            size, data = self._size(following), io.BytesIO()
            with av.open(data, "w", format="mpegts") as container:
                options = {"g": "5", "bf": "0", "tune": "zerolatency", "preset": "ultrafast"}
                stream = container.add_stream("libx264", rate=25, options=options)
                stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
                while following is not None and self._size(following) == size:
                    frame = av.VideoFrame.from_ndarray(numbered(following, *size))
                    frame.pts, stamp = stamp, stamp + 1
                    container.mux(stream.encode(frame))
                    handler.wfile.write(data.getvalue())
                    data.seek(0)
                    data.truncate()
                    following = next(numbers, None)


def reading_threads():
    """The threads of sources that are alive."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("prernn reads")]


def await_end_of_reading():
    """Waits for those threads, which end without anyone's help."""
    until = time.monotonic() + 5
    while reading_threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert reading_threads() == []
