"""``prernn-run SOURCE --model FILE``: prints a network's answer for each frame of a source, as CSV."""

import argparse
import csv
import sys
import time
from collections.abc import Sequence

import prernn_runtime
from prernn_runtime.frames import at_rate, read_frames
from prernn_runtime.stream import Stream


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints frame, time_s, label, probability, latency_ms; an error is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        "prernn-run", description="run a network that prernn exported on a video or camera"
    )
    parser.add_argument("--version", action="version", version=f"prernn-run {prernn_runtime.__version__}")
    parser.add_argument("source", help="video file, folder of frames, camera:0, rtsp/http URL, or - (stdin)")
    parser.add_argument("--model", required=True, help="what prernn export wrote, format onnx")
    parser.add_argument(
        "--fps", help="frames per second that the network sees; source: as they come (default: the file's)"
    )
    parser.add_argument(
        "--reset", help="when the state is reset: never, cut, idle:SECONDS, every:N (default: the file's)"
    )
    parser.add_argument("--threads", type=int, help="number of threads to compute a frame")
    parser.add_argument("--limit", type=int, help="stop after this many frames")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except (ValueError, OSError) as error:
        print(f"prernn-run: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    stream = Stream(options.model, threads=options.threads, reset=options.reset)
    rate = stream.rate
    if options.fps is not None:
        rate = None if options.fps == "source" else float(options.fps)
    write = csv.writer(sys.stdout, lineterminator="\n").writerow
    write(("frame", "time_s", "label", "probability", "latency_ms"))
    frames = at_rate(read_frames(options.source, fps=rate or 25.0), rate)
    for number, (seconds, frame) in enumerate(frames):
        if number == options.limit:
            break
        begin = time.perf_counter()
        chances = stream.probabilities(frame, seconds)
        if chances is None:
            continue
        best = int(chances.argmax())
        label = stream.labels[best] if stream.labels else str(best)
        took = 1000 * (time.perf_counter() - begin)
        write((number, f"{seconds:.3f}", label, f"{chances[best]:.4f}", f"{took:.2f}"))
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
