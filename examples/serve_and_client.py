"""A server for many live streams, with cameras as its clients.

    python examples/serve_and_client.py --cameras 3
    python examples/serve_and_client.py --run runs/finetuned --videos a.mp4 b.mp4

``prernn serve`` is a separate process. Each camera is a thread with a WebSocket (`prernn.client`) that sends one
picture after the other and reads the answers. The frames of all waiting cameras form one batch, but each camera has
its own state. In the end the answers are compared with those of a stream that runs alone. If there is no trained RUN,
one is made first, as in finetune_on_a_folder.py.
"""

import argparse
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import prernn
import prernn.client
from prernn.media.video import probe, read_frames
from prernn.streaming.prediction import predictions


def camera(url: str, video: Path) -> list[tuple[str, float]]:
    """Sends a video as a camera would; returns the label and probability of each frame."""
    info, answers = probe(video), []
    # Raw pixels, so that nothing is lost on the way; a real camera would send JPEG, which is the default. Each
    # picture comes with its time. drop="none" waits for each; a live camera should drop frames rather than lag.
    hello = {"frames": "rgb", "width": info.width, "height": info.height, "times": True, "drop": "none"}
    with prernn.client.connect(url, **hello) as stream:
        for time, picture in read_frames(video):
            answers += stream.ask(picture, time).get("rows", [])
        for answer in stream.rest():
            answers += answer.get("rows", [])
    return [(row["label"], row["probability"]) for row in answers]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/finetuned"), help="of a training (default: %(default)s)")
    parser.add_argument("--videos", type=Path, nargs="+", help="what the cameras see (default: rendered test videos)")
    parser.add_argument("--cameras", type=int, default=3, help="number of clients (default: %(default)s)")
    options = parser.parse_args()
    if not (options.run / "model.safetensors").exists():
        from finetune_on_a_folder import finetune

        finetune(options.run)
    videos = options.videos or sorted(Path("runs/rendered").glob("test/*/*.mp4"))[::5][: options.cameras]

    command = [sys.executable, "-m", "prernn.commands.main", "serve", str(options.run), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # port 0: any free port
    try:
        found = re.search(r"http://([\w.:]+)", server.stderr.readline())  # it prints its address once it listens
        url = f"ws://{found[1]}/stream"
        print(f"the server listens at {url}")
        with ThreadPoolExecutor(len(videos)) as pool:
            answers = list(pool.map(lambda video: camera(url, video), videos))
    finally:
        server.terminate()  # it answers waiting frames, says goodbye to all, and exits with code 0
        print(f"the server ended with code {server.wait()}")

    for video, seen in zip(videos, answers, strict=True):
        alone = [(p.label, p.probability) for p in predictions(prernn.Stream(options.run), video)]
        same = [a[0] == b[0] and abs(a[1] - b[1]) < 1e-3 for a, b in zip(seen, alone, strict=True)]
        print(f"{video}: ends as {seen[-1][0]} ({seen[-1][1]:.0%}); {sum(same)} of {len(same)} answers as alone")


if __name__ == "__main__":
    main()
