"""Lists of labeled videos on disk: one folder per class, UCF101, HMDB51."""

import re
from pathlib import Path
from typing import Literal, NamedTuple

from prernn.media.video import is_video
from prernn.reports.files import list_lines

SPLIT_FOLDERS = ("train", "val", "test")


class Clip(NamedTuple):
    """One labeled video: a file or a folder of frames, the index of its class, and which clip to take from it.

    View 0 is the clip that evaluation takes; the others are taken from other places, to average over.
    """

    path: str
    label: int
    view: int = 0


def class_folder(root: str | Path, split: str | None = None) -> tuple[list[str], list[Clip]]:
    """Lists ``root/<class>/<video>``, or ``root/<split>/<class>/<video>``: (class names, records), both sorted.

    A video is a file with a video suffix or a folder of frames; other files are ignored. With a split,
    the classes are those of the folders train, val and test combined, so that labels agree among them.

    Raises:
        ValueError: a missing folder, no classes, a class without videos, or a split that is missing from the arguments.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root}: expected a folder with one folder a class, found none")
    form = "<class>/<video>" if split is None else f"{split}/<class>/<video>"
    if split is None:
        base, classes = root, _folders(root)
        if classes and set(classes) <= set(SPLIT_FOLDERS):
            raise ValueError(f"{root}: holds the splits {classes}: expected split to name one, got None")
    else:
        base = root / split
        if not base.is_dir():
            raise ValueError(f"{root}: expected {form}, found no folder {split} but {_inside(root)}{_advice(root)}")
        splits = {*SPLIT_FOLDERS, split}
        classes = sorted({name for part in splits if (root / part).is_dir() for name in _folders(root / part)})
    if not classes:
        raise ValueError(f"{root}: expected {form}, found {_inside(base)} in {base}")
    records = []
    for label, name in enumerate(classes):
        folder = base / name
        paths = sorted(path for path in folder.iterdir() if is_video(path)) if folder.is_dir() else []
        if not paths:
            raise ValueError(f"{folder}: class {name!r} has no videos")
        records += [Clip(str(path), label) for path in paths]
    return classes, records


def _advice(root: Path) -> str:
    """What to do where the folders of the classes are there, but not those of the splits."""
    if root.name in SPLIT_FOLDERS:
        return f": take {root.parent}"
    classes = [name for name in _folders(root) if any(is_video(path) for path in (root / name).iterdir())]
    if not classes or set(classes) & set(SPLIT_FOLDERS):
        return ""
    first = classes[0]
    return f": move {first} to {root}/train/{first}, some of its videos to {root}/test/{first}, and so on"


def _inside(folder: Path) -> str:
    """What a folder holds, in a few words."""
    names = _folders(folder)
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        return f"the folder{'s' if len(names) > 1 else ''} {shown}"
    videos = sum(is_video(path) for path in folder.iterdir())
    return f"no folder but {videos} videos" if videos else "nothing"


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def ucf101(root: str | Path, split: int, subset: Literal["train", "test"]) -> tuple[list[str], list[Clip]]:
    """Lists one subset of one of UCF101's splits: (class names by classInd.txt, records in list order).

    Reads ``ucfTrainTestlist/classInd.txt`` and ``<subset>list<split>.txt``, with videos in ``UCF-101/<Class>/``.
    A train list has a 1-based label after each name, a test list may omit it.

    Raises:
        ValueError: anything malformed, missing or contradictory in the lists; the message names list and line.
    """
    if subset not in ("train", "test"):
        raise ValueError(f'subset: expected "train" or "test", got {subset!r}')
    root = Path(root)
    classes = _ucf_classes(root / "ucfTrainTestlist" / "classInd.txt")
    index = {name: label for label, name in enumerate(classes)}
    records: dict[str, Clip] = {}
    for where, line in list_lines(root / "ucfTrainTestlist" / f"{subset}list{split:02d}.txt"):
        match = re.fullmatch(r"(([^\s/]+)/[^\s/]+)(?:\s+(\S+))?", line)
        if not match or (subset == "train" and match[3] is None):
            form = "<Class>/<file>" + (" <label>" if subset == "train" else "")
            raise ValueError(f"{where}: expected '{form}', got {line!r}")
        name, folder, label = match.groups()
        if folder not in index:
            raise ValueError(f"{where}: class {folder} is not in classInd.txt")
        if label is not None and label not in map(str, range(1, len(classes) + 1)):
            raise ValueError(f"{where}: expected a label from 1 to {len(classes)}, got {label!r}")
        if label is not None and int(label) != index[folder] + 1:
            raise ValueError(f"{where}: expected label {index[folder] + 1} for class {folder}, got {label}")
        if name in records:
            raise ValueError(f"{where}: {name} is listed twice")
        if not (root / "UCF-101" / name).exists():
            raise ValueError(f"{where}: file UCF-101/{name} is absent")
        records[name] = Clip(str(root / "UCF-101" / name), index[folder])
    return classes, list(records.values())


def _ucf_classes(path: Path) -> list[str]:
    classes: list[str] = []
    for where, line in list_lines(path):
        number, _, name = line.partition(" ")
        if number != str(len(classes) + 1) or not re.fullmatch(r"[^\s/]+", name := name.strip()):
            raise ValueError(f"{where}: expected '{len(classes) + 1} <Class>', got {line!r}")
        if name in classes:
            raise ValueError(f"{where}: class {name} is listed twice")
        classes.append(name)
    return classes


def hmdb51(root: str | Path, split: int, subset: Literal["train", "test"]) -> tuple[list[str], list[Clip]]:
    """Lists one subset of one of HMDB51's splits: (class names, sorted; records by class, in list order).

    Reads ``testTrainMulti_7030_splits/<class>_test_split<split>.txt``, whose lines are ``<file> 0|1|2`` (unused, train,
    test), with videos in ``<class>/``.

    Raises:
        ValueError: as in `ucf101`; the message names list and line.
    """
    if subset not in ("train", "test"):
        raise ValueError(f'subset: expected "train" or "test", got {subset!r}')
    root = Path(root)
    lists = root / "testTrainMulti_7030_splits"
    ending = f"_test_split{split}.txt"
    classes = sorted(path.name.removesuffix(ending) for path in lists.glob(f"*{ending}"))
    if not classes:
        raise ValueError(f"{lists}: expected lists <class>{ending}, found none")
    wanted = "1" if subset == "train" else "2"
    records: dict[str, Clip] = {}
    for label, name in enumerate(classes):
        for where, line in list_lines(lists / f"{name}{ending}"):
            match = re.fullmatch(r"([^/]+?)\s+([012])", line)
            if not match:
                raise ValueError(f"{where}: expected '<file> 0|1|2', got {line!r}")
            path = f"{name}/{match[1]}"
            if path in records:
                raise ValueError(f"{where}: {path} is listed twice")
            if match[2] != wanted:
                continue
            if not (root / path).exists():
                raise ValueError(f"{where}: file {path} is absent")
            records[path] = Clip(str(root / path), label)
    return classes, list(records.values())


def source_of(path: str) -> str:
    """The source of a clip of UCF101 (``v_<Class>_g<group>_c<clip>``) or HMDB51 (``<source>_<class>_...``) .

    Clips from one source show the same people and place, so seeing one of them in training reveals the others.
    """
    name, folder = Path(path).stem, Path(path).parent.name
    group = re.fullmatch(r"(.+_g\d+)_c\d+", name)
    return group[1] if group else name.partition(f"_{folder}_")[0]
