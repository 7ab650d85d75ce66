"""The LightningDataModule for a person's own images: a folder a class."""

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from simplecnn.data.decoding import Decoding
from simplecnn.data.image_cache import ImageCache, ImageFiles, cached_images
from simplecnn.data.images import Fit
from simplecnn.data.resident import ResidentDataModule, Split
from simplecnn.errors import InputError, short

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
IGNORED = ("thumbs.db", "desktop.ini", "__macosx")  # and all that begins with a dot
MAX_NAMED = 5  # files that a sentence names
MAX_LISTED = 20  # classes that a line counts one by one


class ImageFolderDataModule(ResidentDataModule):
    """Images in `root/<class>/` or in `root/{train,val,test}/<class>/`, as uint8 on the device.

    The names of the folders are the classes, in the order of their names. Splits that are no
    folders are cut from the training images, by class: at least one image of each class.

    A checkpoint holds which files were in which split (`state_dict`): whatever is added later, what
    was not trained on is tested.

    root: the folder, which is only read. data_dir: where the decoded images are kept.
    image_size, channels, fit: of the decoded images, as in `images.fit_pixels`.
    val_fraction: of the images of a class, to validate; 0: nothing validates, root/val neither.
    test_fraction: to test.
    skip_broken: leave out files that cannot be read.
    max_resident: GB. More than that stays in the file of decoded images, mapped into memory.
    options: of ResidentDataModule.

    Raises InputError, in sentences that name files, for a folder that cannot be used.
    """

    ink = False  # pictures show gray images as they are

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
        **options: Any,
    ) -> None:
        if channels not in (1, 3) or image_size < 1:
            raise ValueError("channels must be 1 or 3, image_size at least 1.")
        if not (0 <= val_fraction < 1 and 0 < test_fraction < 1 - val_fraction):
            raise ValueError(
                f"val_fraction is {val_fraction} and test_fraction {test_fraction}: from 0 and "
                f"above 0, and together less than 1."
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
        self.folders = _split_folders(self.root)
        if self.data_dir.resolve().is_relative_to(self.root.resolve()):
            raise InputError(
                f"data.root={root}: the decoded images, in {short(self.data_dir)}, would lie among "
                f"the classes. Go to the folder above, or type paths.data_dir=<another folder>."
            )
        self.class_names = tuple(path.name for path in _folders(self.folders["train"]))
        self._check_classes()
        self.images: Tensor | None = None  # of all splits, which hold (rows, labels)
        self._cache: ImageCache | None = None
        self._rows: dict[tuple[str, int], NDArray[np.int64]] = {}  # by folder of split, and class
        self._recorded: Mapping[str, Sequence[str]] | None = None  # files by split, of a run

    def prepare_data(self) -> None:
        """Decode what is new; on each machine, Lightning calls this in one process."""
        if self._cache is not None:
            return
        files = self._files()
        cache = cached_images(self.root, files, self.decoding, self.data_dir)
        if cache.broken and not self.skip_broken:
            raise InputError(
                f"{len(cache.broken):,} of {len(files.names):,} files in {self.root} cannot be "
                f"read. Delete them, or type data.skip_broken=true to leave them out:",
                *_some(list(cache.broken.values())),
            )
        self._cache = cache
        if self._recorded is None:
            self._drawn()  # which raises where a class has too few

    @property
    def cache(self) -> ImageCache:
        """The decoded images, once `prepare_data` has been called."""
        assert self._cache is not None
        return self._cache

    def read(self, stage: str | None) -> None:
        """Read the images, and say which are in which split; all splits, whatever the stage."""
        self.prepare_data()  # in the other processes of a machine: from the file of the first
        is_mapped = self.cache.num_bytes > self.max_resident * 1e9
        if self.images is None:
            self.images = torch.from_numpy(self.cache.pixels(mapped=is_mapped))
            self._assign(stage)
            if rank_zero_only.rank == 0:
                self._tell()
        if self.trainer is not None and not is_mapped:
            self.images = self.images.to(self.trainer.strategy.root_device)

    def split(self, name: str) -> Split:
        """The images of all splits, and which of them are in this one."""
        rows, labels, _ = super().split(name)
        assert self.images is not None
        return Split(self.images, labels, rows)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: the classes, and the files of each split."""
        names = self.cache.files.names
        splits = {k: [names[i] for i in rows.tolist()] for k, (rows, _) in self.splits.items()}
        return {"classes": list(self.class_names), "splits": splits}

    def load_state_dict(self, state_dict: Mapping[str, Any] | None) -> None:
        """Split as the run of a checkpoint did, where one says it. Raises InputError where that
        cannot be."""
        if state_dict is None:
            return
        if state_dict["classes"] != list(self.class_names):
            raise InputError(
                f"{self.root} has the classes {', '.join(self.class_names)}, and the run "
                f"{', '.join(state_dict['classes'])}."
            )
        self._recorded = state_dict["splits"]
        if self.images is not None:
            self._assign("fit")
            self.setup("fit")

    def holds(self, state_dict: Mapping[str, Any]) -> bool:
        """Whether all images that the run of a checkpoint tested are here."""
        names = state_dict["splits"]["test"]
        return all((self.root / name).is_file() for name in names)

    # ------------------------------------------------------------------------ files and splits

    def _check_classes(self) -> None:
        where = self.folders["train"]
        if len(self.class_names) < 2:
            has = f"only {self.class_names[0]}" if self.class_names else "no folder"
            raise InputError(
                f"data.root={self.root}: there is {has} in {where}, and at least two classes are "
                f"needed. Make a folder a class, named for it, with its images."
            )
        for folder in self.folders.values():
            others = [path.name for path in _folders(folder) if path.name not in self.class_names]
            if others:
                raise InputError(
                    f"{folder} has the classes {_listed(others)}, which {where} has not: a network "
                    f"knows only what it was trained on."
                )

    def _files(self) -> ImageFiles:
        """All files, by split, class and name: in the order of their names below `root`."""
        names: list[str] = []
        stamps: list[NDArray[np.int64]] = []
        mistakes = []
        for split, folder in sorted(self.folders.items()):
            for number, of_class in enumerate(folder / name for name in self.class_names):
                files = _scan(of_class)
                if split == "train" and not files.names:
                    mistakes.append(
                        f"{of_class} has no images: put some directly into it, or delete it."
                    )
                prefix = of_class.relative_to(self.root).as_posix()
                self._rows[split, number] = np.arange(len(files.names)) + len(names)
                names += [f"{prefix}/{name}" for name in files.names]
                stamps.append(files.stamps)
        if mistakes:
            raise InputError(*_some(mistakes))
        return ImageFiles(names, np.concatenate(stamps, axis=1))

    def _assign(self, stage: str | None) -> None:
        """Fill `splits`, as the run of a checkpoint did or by folders, classes and seed."""
        splits = self._drawn() if self._recorded is None else self._as_recorded(stage)
        classes = np.zeros(self.cache.shape[0], np.int64)
        for (_, number), rows in self._rows.items():
            classes[rows] = number
        self.splits = {
            name: (torch.from_numpy(rows), torch.from_numpy(classes[rows]))
            for name, rows in splits.items()
        }

    def _as_recorded(self, stage: str | None) -> dict[str, NDArray[np.int64]]:
        """The rows of each split of a run, of which `stage` needs all, or those that are tested."""
        assert self._recorded is not None
        names, broken = self.cache.files.names, self.cache.broken
        rows = {name: row for row, name in enumerate(names) if row not in broken}
        wanted = ("test",) if stage == "test" else tuple(self._recorded)
        lost = [name for split in wanted for name in self._recorded[split] if name not in rows]
        if lost:
            to_train = " To train on other images, take the weights alone: ckpt_weights_only=true."
            raise InputError(
                f"{self.root} lacks images that the run had, or they cannot be read any more: "
                f"{_listed(lost)}. Put them back.{to_train if stage == 'fit' else ''}"
            )
        return {
            split: np.array([rows[name] for name in of_split if name in rows], np.int64)
            for split, of_split in self._recorded.items()
        }

    def _drawn(self) -> dict[str, NDArray[np.int64]]:
        """The rows of each split: those of its folder, or a cut from each class."""
        names = self.cache.files.names
        readable = np.ones(len(names), bool)
        readable[list(self.cache.broken)] = False
        cut = [n for n in ("val", "test") if n not in self.folders and self.fractions[n]]
        splits: dict[str, list[NDArray[np.int64]]] = {name: [] for name in SPLITS}
        few = []
        for (split, number), of_class in self._rows.items():
            rows = of_class[readable[of_class]]
            if split != "train":
                splits[split].append(rows)
                continue
            order = np.random.default_rng((self.split_seed, number)).permutation(len(rows))
            sizes = [max(1, round(self.fractions[name] * len(rows))) for name in cut]
            if len(rows) <= sum(sizes):
                images = "1 image" if len(rows) == 1 else f"{len(rows)} images"
                named = f" ({_listed([names[i] for i in rows])})" if len(rows) else ""
                few.append(f"{self.class_names[number]} has {images}{named}")
            parts = np.split(order, np.cumsum(sizes))
            for name, part in zip((*cut, "train"), parts, strict=True):
                splits[name].append(rows[np.sort(part)])
        if few:
            raise InputError(
                f"{self.root}: each class needs {len(cut) + 1} images, one for each split. "
                f"{'; '.join(_some(few))}. Add images, delete the folder of the class, or type "
                f"data.val_fraction=0 monitor=null to do without validation."
            )
        drawn = {
            name: np.concatenate([[], *rows]).astype(np.int64) for name, rows in splits.items()
        }
        for name in ("test", *self.validation_stages):
            if not len(drawn[name]):
                raise InputError(f"{self.folders[name]} has no images: delete it to have some cut.")
        return drawn

    # --------------------------------------------------------------------------- what is said

    def _tell(self) -> None:
        log.info("%s", self.describe())
        broken = list(self.cache.broken.values())
        if broken:
            number = _files_are(len(broken))
            log.warning("%s left out; run.json lists all. %s", number, " ".join(_some(broken)))
        if self._recorded is not None:
            num_known = sum(map(len, self._recorded.values()))
            num_new = len(self.cache.files.names) - len(broken) - num_known
            if num_new > 0:
                log.info("%s new since the run, and left out", _files_are(num_new))

    def describe(self) -> str:
        """A line: how many images, of which class, in which split."""
        counts = {name: len(labels) for name, (_, labels) in self.splits.items()}
        total = np.sum([self.class_counts(name) for name in self.splits], axis=0)
        parts = ", ".join(f"{n:,} {s}" for s, n in counts.items() if n)
        head = f"{sum(counts.values()):,} images of {len(total)} classes ({parts})"
        if len(total) <= MAX_LISTED:
            named = zip(self.class_names, total, strict=True)
            return f"{head}: {', '.join(f'{name} {n:,}' for name, n in named)}"
        low, high = int(total.argmin()), int(total.argmax())
        if total[low] == total[high]:
            return f"{head}: {total[low]:,} of each"
        return (
            f"{head}: from {total[low]:,} ({self.class_names[low]}) to {total[high]:,} "
            f"({self.class_names[high]}), median {int(np.median(total)):,}"
        )

    def record(self) -> dict[str, Any]:
        """For run.json: how many images of each class are in each split, and what was left out."""
        counts = {
            name: dict(zip(self.class_names, self.class_counts(name), strict=True))
            for name in self.splits
        }
        return {"images": counts, "left_out": list(self.cache.broken.values())}


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits: `root` itself trains where there are none."""
    if not root.is_dir():
        there = "that is a file, not a folder" if root.exists() else "there is no such folder"
        raise InputError(
            f"data.root={root}: {there}. Looked in {Path.cwd()}. Where the images of a run have "
            f"moved, evaluate and explain find them by data=image_folder data.root=<where they are "
            f"now>; to resume it, put them back, or a link to them."
        )
    names = [path.name for path in _folders(root)]
    if "train" in names and set(names) <= set(SPLITS):
        return {name: root / name for name in names}
    if "train" in names and _folders(root / "train"):
        others = [name for name in names if name not in SPLITS]
        raise InputError(
            f"data.root={root}: beside train there is {_listed(others)}, and splits are called "
            f"{', '.join(SPLITS)}. Rename it, or move it elsewhere."
        )
    return {"train": root}


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name. Raises InputError for a link to what is around it."""
    folders = sorted(p for p in folder.iterdir() if not _is_ignored(p.name) and p.is_dir())
    for path in folders:
        if path.is_symlink() and folder.resolve().is_relative_to(path.resolve()):
            raise InputError(f"{path} is a link to a folder that it lies in: delete it.")
    return folders


def _scan(folder: Path) -> ImageFiles:
    """The files in a folder, by name; none where there is no folder.

    Lists of plain numbers: of 60,000 small containers the garbage collector takes its time.
    """
    names: list[str] = []
    sizes: list[int] = []
    times: list[int] = []
    is_there = folder.is_dir()
    # Where the system can, a name is looked up from the folder, and not its whole path each time.
    opened = os.open(folder, os.O_RDONLY) if is_there and os.stat in os.supports_dir_fd else None
    for name in sorted(os.listdir(folder)) if is_there else ():
        size = time = 0
        if _is_ignored(name):
            continue
        try:
            path = f"{folder}/{name}" if opened is None else name
            status = os.stat(path, dir_fd=opened)
            if stat.S_ISDIR(status.st_mode):
                continue
            size, time = status.st_size, status.st_mtime_ns
        except OSError:  # a link to nothing, or to itself: whoever reads it says so
            pass
        names.append(name)
        sizes.append(size)
        times.append(time)
    if opened is not None:
        os.close(opened)
    return ImageFiles(names, np.array([sizes, times], np.int64))


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED


def _files_are(number: int) -> str:
    return "1 file is" if number == 1 else f"{number:,} files are"


def _some(sentences: Sequence[str]) -> list[str]:
    more = len(sentences) - MAX_NAMED
    return [*sentences[:MAX_NAMED], *([f"and {more:,} more"] if more > 0 else [])]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_some(names))
