"""Checkpoint I/O of the Trainer: atomic writes, and paths that follow a moved run directory."""

import time
from pathlib import Path
from typing import Any

from lightning_fabric.plugins import TorchCheckpointIO

from simplecnn.checkpoint_file import write_checkpoint
from simplecnn.run_directory import replace_in_strings


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its target, sync it, and rename it.

    Lightning writes through the system's temporary directory: if that is on another file system, a
    process killed while writing leaves neither the new file nor the old one. `seconds` is the total
    time spent writing.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._written: set[str] = set()  # file names; the first checkpoint of each is verified

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        start = time.perf_counter()
        name = Path(path).name
        write_checkpoint(checkpoint, Path(path), checked=name not in self._written)
        self._written.add(name)
        self.seconds += time.perf_counter() - start

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint, and replace the paths in it if its directory has moved.

        ModelCheckpoint drops its best score if its `dirpath` differs from the saved one.
        """
        checkpoint = super().load_checkpoint(path, weights_only=True)
        dirpath = Path(path).absolute().parent
        for state in checkpoint.get("callbacks", {}).values():
            if isinstance(state, dict) and isinstance(state.get("dirpath"), str):
                saved = Path(state["dirpath"])
                if saved.name == dirpath.name and saved != dirpath:
                    state.update(replace_in_strings(state, str(saved), str(dirpath)))
        return checkpoint
