"""A server in a thread, for tests, and clients of it."""

import contextlib
import io
import json
import threading
import time

import numpy as np
from PIL import Image
from websockets.sync.client import connect

from prernn.serving.limits import Limits
from prernn.serving.metrics import Metrics
from prernn.serving.model import Model
from prernn.serving.server import Server
from prernn.serving.service import Service


@contextlib.contextmanager
def served(*nets, token=None, limits=None, page=False, **options):
    """Gives a server's address, HOST:PORT, and the server."""
    metrics, ready = Metrics(), threading.Event()
    model = Model(nets, observe=metrics.stepped, **options)
    service = Service(model, Limits(**(limits or {})), metrics, token)
    server = Server(service, port=0, grace=5.0, on_ready=lambda address: ready.set(), page=page)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(30)
    try:
        yield server.address.removeprefix("http://"), server
    finally:
        server.stop()
        thread.join(30)
        model.close()
        assert not thread.is_alive()


def jpeg(picture, quality=95):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return file.getvalue()


def decoded(data):
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


@contextlib.contextmanager
def bare(address, hello="{}"):
    """A socket that has said something, and nothing that makes it behave."""
    with connect(f"ws://{address}/stream", compression=None, max_size=None, close_timeout=1) as socket:
        if hello is not None:
            socket.send(hello)
        yield socket


def said(socket, timeout=20):
    return json.loads(socket.recv(timeout))


def gone(server, why, count=1):
    """Waits until a client has left for a reason."""
    for _ in range(200):
        if server.service.metrics.left.labels(why)._value.get() >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"nobody left because of {why}")
