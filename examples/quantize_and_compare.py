"""Integer weights of a few bits, without retraining and without data: what they cost and what they save.

    python examples/quantize_and_compare.py --samples 0.5 1 2 4

The weights of a trained network become small integers, counts of samples that are drawn from them (docs/sparsity.md).
``correct=True`` then adjusts biases and batch normalization, using inputs that the network itself remembers. All are
compared on the same test videos. If there is no trained RUN, one is made first, as in finetune_on_a_folder.py.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import prernn
from prernn.media.transforms import TransformSpec, frame_transform
from prernn.media.video import read_frames


def test_videos(folder: Path, transform: dict) -> tuple[Tensor, Tensor]:
    """All videos of ``folder/<class>/`` as one batch ``(N, T, 3, H, W)``, and their classes ``(N,)``."""
    prepare = frame_transform(TransformSpec(**transform))
    clips, labels = [], []
    for number, name in enumerate(sorted(path.name for path in folder.iterdir())):
        for video in sorted((folder / name).glob("*.mp4")):
            clips.append(torch.stack([prepare(frame) for _, frame in read_frames(video)]))
            labels.append(number)
    return torch.stack(clips), torch.tensor(labels)


@torch.inference_mode()
def scores(net: nn.Module, videos: Tensor) -> Tensor:
    """Probabilities ``(N, K)``: the mean over the second half of each video, where an answer can be known."""
    out = torch.cat([net(part)[0] for part in videos.split(8)])
    return out[:, out.shape[1] // 2 :].softmax(-1).mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/finetuned"), help="of a training (default: %(default)s)")
    parser.add_argument(
        "--test", type=Path, default=Path("runs/rendered/test"), help="a folder a class, of videos of one length"
    )
    parser.add_argument("--samples", type=float, nargs="+", default=[1, 2, 4], help="samples a weight, on average")
    options = parser.parse_args()
    if not (options.run / "model.safetensors").exists():
        from finetune_on_a_folder import finetune

        finetune(options.run)
    net = prernn.load(options.run)
    videos, labels = test_videos(options.test, net.recipe.transform)
    whole = scores(net, videos)
    size = (options.run / "model.safetensors").stat().st_size
    print("network               bits   non-zero      file   right   says the same")

    def row(name: str, bits: float, share: float, file: int, said: Tensor) -> None:
        right, same = ((said.argmax(-1) == other).float().mean() for other in (labels, whole.argmax(-1)))
        print(f"{name:<20} {bits:5.1f} {share:10.0%} {file / 1e6:6.1f} MB {right:7.0%} {same:15.0%}")

    row("float32", 32, 1.0, size, whole)
    remembered = prernn.synthetic_inputs(net)  # made once, because this takes longest
    for samples in options.samples:
        small = prernn.quantize(net, samples, correct=True, inputs=remembered)
        report = prernn.quantization_report(small)
        file = prernn.save(small, options.run / "quantized" / f"{samples:g}")
        row(f"{samples:g} samples a weight", report.bits, report.nonzero, file.stat().st_size, scores(small, videos))


if __name__ == "__main__":
    main()
