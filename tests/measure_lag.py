"""Measures how far a network lags behind a live camera that is faster than it, by each policy of `prernn.Source`.

The camera is `live_servers.LiveServer` on loopback, whose pictures show their numbers; the network sleeps. A lag is the
time from when the camera sends a picture to when the network is done with it.

    uv run python tests/measure_lag.py --fps 30 --slower 3 --seconds 20
"""

import argparse
import statistics
import time

from live_servers import LiveServer, number_of
from prernn.media.video import read_frames
from prernn.streaming.sources.source import Source

POLICIES = [("oldest", 1), ("oldest", 4), ("every:3", 4), ("every:4", 4), ("none", 4)]


def lags(form, fps, network, seconds, drop, queue):
    """Lags in seconds of the frames seen, and what became of all."""
    found = []
    with LiveServer(fps, form) as server, Source(server.url, drop=drop, queue=queue) as source:
        start = None
        for frame in source:
            start = start or time.monotonic()
            time.sleep(network)
            found.append(time.monotonic() - server.sent[number_of(frame.picture)])
            if time.monotonic() > start + seconds:
                break
    return found, source.counts


def file_times(path, network, repeats=5):
    """Median seconds to read a file for a network that takes so long for a frame: in one thread, and in two."""
    seconds = {"read_frames": [], "Source": []}
    for _ in range(repeats):
        for name, pictures in (("read_frames", read_frames(path)), ("Source", Source(path))):
            start = time.perf_counter()
            for _ in pictures:
                if network:
                    time.sleep(network)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fps", type=float, default=30)
    parser.add_argument("--slower", type=float, default=3, help="camera's frames in the time of the network's")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--form", choices=("mjpeg", "ts"), default="mjpeg")
    parser.add_argument("--file", help="time the reading of this video instead")
    options = parser.parse_args()
    if options.file:
        for network in (0.0, 0.005):
            times = file_times(options.file, network)
            print(f"{1e3 * network:g} ms a frame:", {name: round(value, 3) for name, value in times.items()})
        return
    for drop, queue in POLICIES:
        found, counts = lags(options.form, options.fps, options.slower / options.fps, options.seconds, drop, queue)
        late = sorted(found[len(found) // 4 :])  # once the first, which are looked at before, are through
        median, most, last = (1e3 * value for value in (statistics.median(late), late[-1], found[-1]))
        seen = f"{len(found)} seen, {counts.dropped} of {counts.read} dropped"
        print(f"{drop:8} queue {queue}: median {median:.0f} ms, most {most:.0f}, last {last:.0f}; {seen}", flush=True)


if __name__ == "__main__":
    main()
