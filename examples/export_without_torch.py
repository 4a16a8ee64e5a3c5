"""Export a network as one ONNX file, and run it in a program that knows neither torch nor prernn.

    python examples/export_without_torch.py                          # both parts, and a check that they agree
    python examples/export_without_torch.py --run runs/finetuned --video clip.mp4

`play` is the second part, a separate process: it needs only ``prernn-runtime``, which builds on numpy, onnxruntime,
PyAV and pillow (``pip install ./runtime``). Labels, transform and frame rate are inside the file. If there is no
trained RUN, one is made first, as in finetune_on_a_folder.py.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path


def play(model: Path, video: Path) -> None:
    """Follows a video with an exported step and writes time, label and probability as CSV."""
    import numpy as np

    import prernn_runtime

    stream = prernn_runtime.Stream(model)
    for time, frame in prernn_runtime.at_rate(prernn_runtime.read_frames(video), stream.rate):
        outputs = stream(frame)  # (K,)
        probabilities = np.exp(outputs - outputs.max())
        probabilities /= probabilities.sum()
        best = int(probabilities.argmax())
        csv.writer(sys.stdout).writerow([f"{time:.2f}", stream.labels[best], f"{probabilities[best]:.4f}"])
    loaded = sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "prernn", "torchvision"})
    print(f"loaded of torch, prernn and torchvision: {', '.join(loaded) or 'nothing'}", file=sys.stderr)


def export_and_compare(run: Path, video: Path | None) -> None:
    """Writes the file, lets `play` follow the video in another process, and compares with the network in torch."""
    import prernn
    from prernn.streaming.prediction import predictions

    if not (run / "model.safetensors").exists():
        from finetune_on_a_folder import finetune

        finetune(run)
    video = video or sorted(Path("runs/rendered").glob("test/*/*.mp4"))[0]
    model = run / "step.onnx"
    prernn.export(prernn.load(run), model)  # also runs the file, and refuses it if its outputs differ
    print(f"{model}: {model.stat().st_size / 1e6:.1f} MB")

    command = [sys.executable, __file__, "--model", str(model), "--video", str(video)]
    rows = list(csv.reader(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()))
    apart = 0.0
    for (time, label, probability), seen in zip(rows, predictions(prernn.Stream(run), video), strict=True):
        print(f"  {time} s  {label:<14} {float(probability):4.0%}   in torch {seen.label:<14} {seen.probability:4.0%}")
        apart = max(apart, abs(float(probability) - seen.probability))
    print(f"probabilities differ by {apart:.0e} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/finetuned"), help="of a training (default: %(default)s)")
    parser.add_argument("--video", type=Path, help="to follow (default: one of the rendered test videos)")
    parser.add_argument("--model", type=Path, help="an exported file: only play it, without torch")
    options = parser.parse_args()
    if options.model:
        play(options.model, options.video)
    else:
        export_and_compare(options.run, options.video)


if __name__ == "__main__":
    main()
