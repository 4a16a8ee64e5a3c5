"""Fine-tune a pre-trained CNN on a folder of videos, test it, and follow one video frame by frame.

    python examples/finetune_on_a_folder.py                     # short videos, rendered on the spot
    python examples/finetune_on_a_folder.py --videos MINE       # MINE/train/<class>/*.mp4 and MINE/test/<class>/*.mp4

The rendered classes come in reversed pairs, such as a picture that comes into focus and one that goes out of focus: a
single frame can't tell the two apart. The network is saved in ``--run``, where the other examples and ``prernn stream
SOURCE --checkpoint runs/finetuned`` find it. ``prernn fit`` does all this from a config, with curves and tables.
"""

import argparse
import logging
from pathlib import Path

import lightning as L

import prernn
from prernn.media.sample_videos import render
from prernn.media.sampling import Sampling
from prernn.models.from_config import NetworkSpec
from prernn.streaming.prediction import predictions
from prernn.tasks import Action
from prernn.training.data_module import VideoData
from prernn.training.learning import Learning
from prernn.training.module import VideoModule

RUN, RENDERED = Path("runs/finetuned"), Path("runs/rendered")


def finetune(run: Path = RUN, videos: Path | None = None, epochs: int = 1, size: int = 64) -> float:
    """Trains on a folder of videos, saves the network in ``run`` and returns its accuracy on the test videos."""
    L.seed_everything(0, verbose=False)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    videos = videos or render(RENDERED, clips_per_class_train=12, clips_per_class_test=4, size=size)

    # What is learned: the class of a clip, from 12 consecutive frames. Pictures are small, so that a CPU is enough.
    task = Action(sampling=Sampling(frames=12, rule="consecutive"), size=size, flip=False)
    data = VideoData(videos, task, batch_size=8, num_workers=0, holdout=0)

    # The network: EfficientNet-Lite0, whose last convolution becomes a GRU that starts with what the convolution knows.
    network = NetworkSpec("efficientnet_lite0", pretrained=True, cell="gru", input="single", keep_activation=True)

    # First the new part learns behind a frozen trunk (the log says when), then all of it, the pre-trained part slowly.
    module = VideoModule(network, Learning(lr=0.1, pretrained_lr=0.01), data.task)
    trainer = L.Trainer(
        max_epochs=epochs,
        gradient_clip_val=1.0,
        default_root_dir=run,
        accelerator="auto",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,  # no epoch is chosen, so the test videos play no part in the training
    )
    trainer.fit(module, data)
    accuracy: float = trainer.test(module, data, verbose=False)[0]["test_clip_accuracy"]
    prernn.save(module.network, run)
    print(f"{accuracy:.0%} of the test videos are right; {len(task.labels or [])} classes; the network is in {run}")
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--videos", type=Path, help="folder with train/<class> and test/<class> (default: render some)")
    parser.add_argument("--run", type=Path, default=RUN, help=f"where the network goes (default: {RUN})")
    parser.add_argument("--epochs", type=int, default=1, help="of the whole network (default: 1)")
    options = parser.parse_args()
    finetune(options.run, options.videos, options.epochs)

    video = sorted((options.videos or RENDERED).glob("test/*/*.mp4"))[0]
    print(f"{video}, as a camera would show it:")
    for seen in predictions(prernn.Stream(options.run), video):
        print(f"  {seen.time:5.2f} s  {seen.label:<14} {'#' * round(40 * seen.probability)}")


if __name__ == "__main__":
    main()
