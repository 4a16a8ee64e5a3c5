"""Several cameras in one program: a thread reads each, and all that have a picture share one step of the network.

    python examples/many_cameras.py
    python examples/many_cameras.py --run runs/folders --cameras rtsp://door/live rtsp://yard/live

`prernn.StreamBatch` has no clock: it sees what it is given. A network that was trained at 8 frames a second must be
given 8, whatever the camera sends, so `moments` keeps the network's clock for each camera. A camera that is lost
connects again by itself; one that is lost for good, or a file that ends, leaves. Prints one line per answer. If there
is no trained RUN, one is made first, as in finetune_on_a_folder.py.
"""

import argparse
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import prernn
from prernn.streaming.pace import clock_for
from prernn.streaming.sources.moments import moments


def read(address: str, streams: prernn.StreamBatch, box: queue.Queue, ready: threading.Event) -> None:
    """Puts what the network is to see of a camera into its box, and None at the end."""
    try:
        with prernn.Source(address) as source:  # a camera drops what is too old while the box is full
            for moment in moments(source, clock_for([streams.net])):
                box.put(moment)
                ready.set()
    except ValueError as error:  # it was never there, or is lost for good
        print(error, file=sys.stderr)
    box.put(None)
    ready.set()


def follow(streams: prernn.StreamBatch, addresses: list[str]) -> Iterator[tuple[str, float, str, float]]:
    """Yields (address, seconds, label, probability) as frames arrive, until all cameras have ended."""
    boxes: dict[str, queue.Queue] = {address: queue.Queue(1) for address in addresses}
    ready = threading.Event()
    for address, box in boxes.items():
        threading.Thread(target=read, args=(address, streams, box, ready), daemon=True).start()
    numbers = {address: streams.join() for address in addresses}
    while numbers:
        ready.wait()
        ready.clear()
        now = {address: boxes[address].get() for address in list(numbers) if not boxes[address].empty()}
        for address in [address for address, moment in now.items() if moment is None]:
            streams.leave(numbers.pop(address))
            del now[address]
        for address, moment in now.items():
            if moment.reconnected:
                streams.interrupted(numbers[address])
        pictures = {numbers[address]: moment.picture for address, moment in now.items()}
        answers = streams.step(pictures, {numbers[address]: moment.time for address, moment in now.items()})
        for address, moment in now.items():
            if (out := answers[numbers[address]]) is not None:  # a network of snippets has no answer for most frames
                probability, best = out.float().softmax(-1).max(-1)
                label = streams.labels[int(best)] if streams.labels else str(int(best))
                yield address, moment.time, label, float(probability)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/finetuned"), help="of a training (default: %(default)s)")
    parser.add_argument("--cameras", nargs="+", help="camera:0, URLs or files (default: rendered test videos)")
    options = parser.parse_args()
    if not (options.run / "model.safetensors").exists():
        from finetune_on_a_folder import finetune

        finetune(options.run)
    addresses = options.cameras or sorted(map(str, Path("runs/rendered").glob("test/*/*.mp4")))[::5][:3]
    for address, seconds, label, probability in follow(prernn.StreamBatch(options.run), addresses):
        print(f"{address}  {seconds:6.2f} s  {label}  {probability:.0%}", flush=True)


if __name__ == "__main__":
    main()
