"""The LightningDataModule of a folder of images with one subfolder per class."""

import filecmp
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from simplecnn.config.spelling import truncate
from simplecnn.data.decoding import Decoding
from simplecnn.data.image_cache import FileStamp, ImageCache, ImageFiles, cached_images
from simplecnn.data.images import Fit
from simplecnn.data.resident import ResidentDataModule, Split, mixed_order
from simplecnn.errors import InputError, relative_path

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
IGNORED = ("thumbs.db", "desktop.ini", "__macosx")  # besides hidden files
MAX_NAMED = 5  # items that a message lists
MAX_COUNTED = 20  # classes whose images `describe` counts one by one


class ImageFolderDataModule(ResidentDataModule):
    """Images in `root/<class>/` or in `root/{train,val,test}/<class>/`, as uint8 on the device.

    The names of the folders are the classes, sorted. Splits without a folder are sampled from the
    training images of each class, at least one image per class.

    Checkpoints record the files of each split (`state_dict`), so that a run is always tested on
    images it was not trained on, even if images are added later.

    Args:
        root: the folder of the images, which is never written to.
        data_dir: the folder of the cache of decoded images.
        image_size, channels, fit: of the decoded images, as in `images.fit_pixels`.
        val_fraction: fraction of each class held out for validation; 0 disables validation, even
            with a folder root/val.
        test_fraction: fraction of each class held out for testing.
        skip_broken: leave out files that cannot be read instead of raising InputError.
        max_resident: in GB; larger arrays of decoded images are memory-mapped instead of moved to
            the device.
        test_classes: the classes of a network that is tested: all images are test images, or those
            in root/test if there is such a folder. A class may have none.
        options: arguments of ResidentDataModule.

    Raises ValueError for invalid arguments, InputError for a folder that cannot be used.
    """

    ink = False  # figures show gray images in their true brightness
    images: Tensor  # of all splits; `splits` holds (rows, labels)

    def __init__(
        self,
        *,
        root: str,
        data_dir: str,
        image_size: int = 64,
        channels: int = 3,
        fit: Fit = "pad",
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        skip_broken: bool = False,
        max_resident: float = 2.0,
        test_classes: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        if channels not in (1, 3) or image_size < 1:
            raise ValueError("channels must be 1 or 3, image_size at least 1.")
        if not (0 <= val_fraction < 1 and 0 < test_fraction < 1 - val_fraction):
            raise ValueError(
                f"val_fraction is {val_fraction} and test_fraction {test_fraction}: the first must "
                f"be at least 0, the second above 0, and their sum less than 1."
            )
        super().__init__(validation=val_fraction > 0, **options)
        self.root = Path(root).expanduser()
        self.data_dir = Path(data_dir).expanduser()
        self.decoding = Decoding(image_size, channels, fit)
        self.image_shape = self.decoding.shape
        self.fractions = {"val": val_fraction, "test": test_fraction}
        self.skip_broken = skip_broken
        self.max_resident = max_resident
        self.name = self.root.resolve().name
        self.only_tests = test_classes is not None
        self.folders = _split_folders(self.root, only_tests=self.only_tests)
        if self.data_dir.resolve().is_relative_to(self.root.resolve()):
            raise InputError(
                f"data.root={root}: the decoded images, in {relative_path(self.data_dir)}, would "
                f"be stored among the classes. Run simplecnn in the parent folder, or type "
                f"paths.data_dir=<another folder>."
            )
        names = test_classes or [path.name for path in _folders(self.folders["train"])]
        self.class_names = tuple(names)
        self._check_classes()
        self._rows: dict[tuple[str, int], NDArray[np.int64]] = {}  # by split folder and class
        self._recorded: Mapping[str, Sequence[str]] = {}  # files by split of a checkpoint

    @cached_property
    def cache(self) -> ImageCache:
        """The decoded images; new and changed files are decoded when it is first used."""
        return cached_images(self.root, self._files(), self.decoding, self.data_dir)

    def prepare_data(self) -> None:
        """Decode new and changed files; Lightning calls this in one process per machine."""
        broken, num_files = self.cache.broken, self.cache.shape[0]
        if broken and not self.skip_broken:
            del self.cache  # the files may be deleted before another call
            raise InputError(
                f"{len(broken):,} of {num_files:,} files in {self.root} cannot be read. Delete "
                f"them, or type data.skip_broken=true to leave them out:",
                *_some(list(broken.values())),
            )
        if not self._recorded:
            self._sample_splits()  # raises if a class has too few images

    def read(self, stage: str | None) -> None:
        """Read the images and assign them to all splits, whatever the stage."""
        self.prepare_data()  # every process needs the cache that the first one has written
        is_mapped = self.cache.num_bytes > self.max_resident * 1e9
        if not self.splits:
            self.images = torch.from_numpy(self.cache.pixels(mapped=is_mapped))
            self._assign(stage)
            self._log_summary()
        if self.trainer is not None and not is_mapped:
            self.images = self.images.to(self.trainer.strategy.root_device)

    def split(self, name: str) -> Split:
        """Return the images of all splits, and the labels and rows of split `name`."""
        rows, labels, _ = super().split(name)
        return Split(self.images, labels, rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the classes and the files of each split, for the checkpoint."""
        names = self.cache.files.names
        splits = {k: [names[i] for i in rows.tolist()] for k, (rows, _) in self.splits.items()}
        return {"classes": list(self.class_names), "splits": splits}

    def load_state_dict(self, state_dict: Mapping[str, Any] | None) -> None:
        """Restore the splits of a checkpoint. Raises InputError if classes or images differ."""
        if state_dict is None:
            return
        if state_dict["classes"] != list(self.class_names):
            raise InputError(
                f"{self.root} has the classes {', '.join(self.class_names)}, but the run has "
                f"{', '.join(state_dict['classes'])}."
            )
        self._recorded = state_dict["splits"]
        if self.splits:
            self._assign("fit")
            self.setup("fit")

    def leave_out(self, state_dict: Mapping[str, Any], run_root: Path) -> str:
        """Remove test images that a checkpoint's run has trained on or validated with.

        They are recognized by their names and, if they are still in the run's folder `run_root`, by
        their content. Requires `setup`. If all have such names, none is removed: they may be other
        images. Returns a warning, empty if there are no such images.
        """
        splits = state_dict["splits"]
        used = {name for split in ("train", "val") for name in splits.get(split, ())}
        rows, labels = self.splits["test"]
        names = [self.cache.files.names[row] for row in rows.tolist()]
        kept = torch.tensor(
            [name not in used or _differ(run_root / name, self.root / name) for name in names]
        )
        if kept.all():
            return ""
        named = "names of images that the network was trained or validated on"
        if not kept.any():
            return (
                f"All test images of {self.name} have {named}: if they are the same images, the "
                f"results are too good."
            )
        self.splits["test"] = rows[kept], labels[kept]
        count = f"{int((~kept).sum()):,} of {len(kept):,} test images of {self.name}"
        return f"{count} have {named}: left out."

    # ------------------------------------------------------------------------ files and splits

    def _check_classes(self) -> None:
        if self.only_tests:
            lacking = f"the network was trained on {truncate(', '.join(self.class_names))}"
        else:
            train = self.folders["train"]
            lacking = f"{train} lacks them: a network knows only the classes it was trained on"
            if len(self.class_names) < 2:
                existing = f"only {self.class_names[0]}" if self.class_names else "no folder"
                raise InputError(
                    f"data.root={self.root}: there is {existing} in {train}, but at least two "
                    f"classes are needed. Create one folder per class, named after the class, with "
                    f"its images."
                )
        for folder in self.folders.values():
            unknown = [path.name for path in _folders(folder) if path.name not in self.class_names]
            if unknown:
                raise InputError(f"{folder} has the classes {_listed(unknown)}, but {lacking}.")

    def _files(self) -> ImageFiles:
        """List all files, sorted by their path below `root`, and set `_rows`."""
        files: list[FileStamp] = []
        mistakes = []
        for split, folder in sorted(self.folders.items()):
            for label, class_folder in enumerate(folder / name for name in self.class_names):
                scanned = _scan(class_folder)
                if split == "train" and not scanned and not self.only_tests:
                    mistakes.append(
                        f"{class_folder} has no images: put some directly into it, or delete it."
                    )
                prefix = class_folder.relative_to(self.root).as_posix()
                self._rows[split, label] = np.arange(len(scanned)) + len(files)
                files += [(f"{prefix}/{name}", size, time) for name, size, time in scanned]
        if not files:  # of a test set
            known = truncate(", ".join(self.class_names))
            mistakes = [f"{self.root} has no images in folders of the classes {known}."]
        if mistakes:
            raise InputError(*_some(mistakes))
        names, *stamps = zip(*files, strict=True)
        return ImageFiles(list(names), np.array(stamps, np.int64))

    def _assign(self, stage: str | None) -> None:
        """Fill `splits` by the checkpoint, if one is loaded, or by folders and sampling."""
        splits = self._recorded_splits(stage) if self._recorded else self._sample_splits()
        labels = np.zeros(self.cache.shape[0], np.int64)
        for (_, label), rows in self._rows.items():
            labels[rows] = label
        for name, rows in splits.items():
            rows = rows if name == "train" else rows[mixed_order(labels[rows])]
            self.splits[name] = torch.from_numpy(rows), torch.from_numpy(labels[rows])

    def _recorded_splits(self, stage: str | None) -> dict[str, NDArray[np.int64]]:
        """Return the rows of each split of the checkpoint.

        Raises InputError if an image is missing: a test image for stage "test", else any image.
        """
        names, broken = self.cache.files.names, self.cache.broken
        rows = {name: row for row, name in enumerate(names) if row not in broken}
        needed = ("test",) if stage == "test" else tuple(self._recorded)
        lost = [name for split in needed for name in self._recorded[split] if name not in rows]
        if lost:
            to_train = " To train on other images, load the weights only: ckpt_weights_only=true."
            raise InputError(
                f"{self.root} lacks images that the run used, or they can no longer be read: "
                f"{_listed(lost)}. Restore them.{to_train if stage == 'fit' else ''}"
            )
        return {
            split: np.array([rows[name] for name in files if name in rows], np.int64)
            for split, files in self._recorded.items()
        }

    def _sample_splits(self) -> dict[str, NDArray[np.int64]]:
        """Return the rows of each split: those of its folder, or a random sample of each class."""
        names = self.cache.files.names
        readable = np.ones(len(names), bool)
        readable[list(self.cache.broken)] = False
        if self.only_tests:
            tested = {"test"} & self.folders.keys() or self.folders.keys()
            rows = np.concatenate([rows for (n, _), rows in self._rows.items() if n in tested])
            if not readable[rows].any():
                raise InputError(f"{self.root} has no images that can be read.")
            return {"test": rows[readable[rows]]}
        sampled = [n for n in ("val", "test") if n not in self.folders and self.fractions[n]]
        splits: dict[str, list[NDArray[np.int64]]] = {name: [] for name in SPLITS}
        too_few = []
        for (split, label), class_rows in self._rows.items():
            rows = class_rows[readable[class_rows]]
            if split != "train":
                splits[split].append(rows)
                continue
            order = np.random.default_rng((self.split_seed, label)).permutation(len(rows))
            sizes = [max(1, round(self.fractions[name] * len(rows))) for name in sampled]
            if len(rows) <= sum(sizes):
                images = "1 image" if len(rows) == 1 else f"{len(rows)} images"
                files = f" ({_listed([names[i] for i in rows])})" if len(rows) else ""
                too_few.append(f"{self.class_names[label]} has {images}{files}")
            parts = np.split(order, np.cumsum(sizes))
            for name, part in zip((*sampled, "train"), parts, strict=True):
                splits[name].append(rows[np.sort(part)])
        if too_few:
            advice = "Add images, or delete the folder of the class."
            if "val" in sampled:
                advice += " data.val_fraction=0 monitor=null trains without validation."
            raise InputError(
                f"{self.root}: each class needs {len(sampled) + 1} images, one for each split. "
                f"{'; '.join(_some(too_few))}. {advice}"
            )
        split_rows = {
            name: np.concatenate([[], *rows]).astype(np.int64) for name, rows in splits.items()
        }
        for name in ("test", *self.validation_stages):
            if not len(split_rows[name]):
                raise InputError(
                    f"{self.folders[name]} has no images: delete the folder to sample this split "
                    f"from the training images."
                )
        return split_rows

    # --------------------------------------------------------------------------- log and record

    @rank_zero_only
    def _log_summary(self) -> None:
        log.info("%s", self.describe())
        broken = list(self.cache.broken.values())
        if broken:
            files_are = _files_are(len(broken))
            log.warning("%s left out; run.json lists all. %s", files_are, " ".join(_some(broken)))
        if self._recorded:
            num_known = sum(map(len, self._recorded.values()))
            num_new = len(self.cache.files.names) - len(broken) - num_known
            if num_new > 0:
                log.info("%s new since the run and left out", _files_are(num_new))

    def describe(self) -> str:
        """Summarize the number of images by split and class in one line."""
        counts = {name: len(labels) for name, (_, labels) in self.splits.items()}
        total = np.sum([self.class_counts(name) for name in self.splits], axis=0)
        parts = ", ".join(f"{n:,} {s}" for s, n in counts.items() if n)
        head = f"{sum(counts.values()):,} images of {len(total)} classes ({parts})"
        if len(total) <= MAX_COUNTED:
            counted = zip(self.class_names, total, strict=True)
            return f"{head}: {', '.join(f'{name} {n:,}' for name, n in counted)}"
        low, high = int(total.argmin()), int(total.argmax())
        if total[low] == total[high]:
            return f"{head}: {total[low]:,} per class"
        return (
            f"{head}: from {total[low]:,} ({self.class_names[low]}) to {total[high]:,} "
            f"({self.class_names[high]}), median {int(np.median(total)):,}"
        )

    def record(self) -> dict[str, Any]:
        """Return the image counts by split and class, and the left-out files, for run.json."""
        counts = {
            name: dict(zip(self.class_names, self.class_counts(name), strict=True))
            for name in self.splits
        }
        return {"images": counts, "left_out": list(self.cache.broken.values())}


def has_test_images(root: Path, state_dict: Mapping[str, Any], run_root: Path) -> bool:
    """Whether a folder has all test images of a checkpoint, which are or were in `run_root`."""
    return all(
        (root / name).is_file() and not _differ(run_root / name, root / name)
        for name in state_dict["splits"]["test"]
    )


def _differ(original: Path, image: Path) -> bool:
    """Whether an image has another content than one of the same name, if that still exists."""
    if not original.is_file() or original.samefile(image):
        return False
    return not filecmp.cmp(original, image, shallow=False)


def _split_folders(root: Path, *, only_tests: bool) -> dict[str, Path]:
    """Return the folders of the splits; without any, `root` is the training split."""
    if not root.is_dir():
        problem = "that is a file, not a folder" if root.exists() else "there is no such folder"
        raise InputError(
            f"data.root={root}: {problem}. Looked in {Path.cwd()}. If the images of a run have "
            f"moved, evaluate and explain accept data=image_folder data.root=<new location>; to "
            f"resume the run, move them back or link to them."
        )
    names = [path.name for path in _folders(root)]
    if ("train" in names or only_tests and "test" in names) and set(names) <= set(SPLITS):
        return {name: root / name for name in names}
    if "train" in names and _folders(root / "train"):
        others = [name for name in names if name not in SPLITS]
        raise InputError(
            f"data.root={root}: beside train there is {_listed(others)}, but splits must be named "
            f"{', '.join(SPLITS)}. Rename it, or move it elsewhere."
        )
    return {"train": root}


def _folders(folder: Path) -> list[Path]:
    """List the subfolders by name. Raises InputError for a link to a folder that contains it."""
    folders = sorted(p for p in folder.iterdir() if not _is_ignored(p.name) and p.is_dir())
    for path in folders:
        if path.is_symlink() and folder.resolve().is_relative_to(path.resolve()):
            raise InputError(f"{path} is a link to a folder that contains it: delete it.")
    return folders


def _scan(folder: Path) -> list[FileStamp]:
    """List the files in a folder by name; none if the folder does not exist."""
    files: list[FileStamp] = []
    for entry in os.scandir(folder) if folder.is_dir() else ():
        if _is_ignored(entry.name):
            continue
        try:
            if entry.is_dir():
                continue
            files.append((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns))
        except OSError:  # a broken or circular link: reported when the file is read
            files.append((entry.name, 0, 0))
    return sorted(files)


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED


def _files_are(count: int) -> str:
    return "1 file is" if count == 1 else f"{count:,} files are"


def _some(items: Sequence[str]) -> list[str]:
    """Return the first MAX_NAMED items, and the number of further items, if any."""
    num_more = len(items) - MAX_NAMED
    return [*items[:MAX_NAMED], *([f"and {num_more:,} more"] if num_more > 0 else [])]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_some(names))
