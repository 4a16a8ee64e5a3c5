"""``prernn serve``: serves a trained network to many live streams, over WebSockets and HTTP."""

import functools
import os
import sys
import warnings
from argparse import ArgumentParser, Namespace

from prernn.commands.arguments.command import Command, given
from prernn.commands.stream import OF_TASKS

TOKEN = "PRERNN_TOKEN"
"""The environment variable that holds the token if no option does; unlike an option, it is in no process list."""

LIMITS = {
    "clients": (int, "streams at a time (default: 64)"),
    "pixels": (int, "pixels of a picture (default: 9 million)"),
    "message_bytes": (int, "bytes of a message (default: 8 MiB)"),
    "client_fps": (float, "frames per second from a client, on average (default: 60)"),
    "bytes_per_second": (float, "bytes per second from a client, on average (default: 64 MiB)"),
    "video_bytes": (int, "bytes of an uploaded video (default: 2 GB)"),
    "queue": (int, "frames of a client that may wait for their turn (default: 4)"),
    "idle": (float, "seconds without a message after which a client is disconnected (default: 60)"),
}


def add_arguments(parser: ArgumentParser) -> None:
    """Adds the options of ``prernn serve``."""
    add = parser.add_argument
    add("checkpoint", nargs="+", help="run folder, checkpoint or exported file; the answers of several are averaged")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)")
    add("--port", type=int, default=8000, help="port number; 0 picks a free one (default: 8000)")
    add("--token", help=f"token that clients must send; required if other machines can connect (default: ${TOKEN})")
    add("--certificate", help="PEM file, for https and wss")
    add("--key", help="PEM file with the certificate's key")
    add("--engine", help="torch (default), onnxruntime, openvino, or auto: the fastest on this machine that agrees")
    add("--precision", help="float32 (default); bfloat16 or float16 for everything feedforward; int8")
    add("--threads", type=int, help="threads that compute a step (default: the engine's choice)")
    add("--grace", type=float, default=10.0, help="seconds to answer waiting frames on shutdown (default: 10)")
    for name, (kind, words) in LIMITS.items():
        add(f"--{name.replace('_', '-')}", type=kind, help=words)
    add("--commands", help="gesture: table of commands, YAML or JSON, such as configs/player.yaml")
    add("--decoder", choices=("greedy", "beam"), help="gesture: decoder (default: the run's)")
    add("--detector", help="face: cascade (default), mediapipe, mediapipe:FILE or yunet:FILE")
    add("--smooth", help="face: One-Euro filter, MIN_CUTOFF,BETA as in 1,10, or none (default: the run's)")
    add("--events", action="store_true", default=None, help="action, segments, gesture: report events too")


def run(options: Namespace) -> None:
    """Serves until it is told to stop."""
    serve(options, "serving at {0} (clients: {1}/stream; {0}/docs says how)")


def serve(options: Namespace, words: str, page: bool = False) -> None:
    """Serves until it is told to stop.

    Args:
        options: of `add_arguments`.
        words: printed once the server listens, with its address in place of ``{0}``, that of WebSockets in place of
            ``{1}``.
        page: whether to serve the page for browsers at ``/``.
    """
    try:
        from prernn.serving.server import Server
    except ImportError as error:
        raise ImportError(f"prernn {options.command} needs the packages of prernn[serve]: {error}") from error
    from prernn.serving.limits import Limits
    from prernn.serving.metrics import Metrics
    from prernn.serving.model import Model
    from prernn.serving.service import Service

    # these concern what clients send, who get their own answer: huge pictures, broken metadata, odd times
    warnings.filterwarnings("ignore", module="PIL")
    warnings.filterwarnings("ignore", message="the source has")
    bounds = given(options, *LIMITS)
    if "client_fps" in bounds:
        bounds["fps"] = bounds.pop("client_fps")
    limits, metrics = Limits(**bounds), Metrics()
    token = options.token or os.environ.get(TOKEN) or None
    computed = given(options, "engine", "precision", "threads")
    for_watchers = given(options, *OF_TASKS)
    model = Model(options.checkpoint, **computed, options=for_watchers, most=limits.clients, observe=metrics.stepped)
    try:
        where = {"host": options.host, "port": options.port, "certificate": options.certificate, "key": options.key}
        service = Service(model, limits, metrics, token)
        say = functools.partial(_say, words)
        Server(service, **where, grace=options.grace, on_ready=say, page=page).run()
    finally:
        model.close()


def _say(words: str, address: str) -> None:
    print("prernn: " + words.format(address, address.replace("http", "ws", 1)), file=sys.stderr)


SERVE = Command("answer many live streams at once, over WebSockets and HTTP", run, add_arguments)
