"""Every checkpoint of the Trainer is written atomically, and found again after a move."""

import time
from pathlib import Path
from typing import Any

from lightning_fabric.plugins import TorchCheckpointIO

from simplecnn.checkpoint_file import write_checkpoint
from simplecnn.run_directory import moved


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, renames. `seconds` adds up what that took.

    Lightning's own writing goes by the system's temporary directory: where that is another file
    system, a process that is killed leaves neither the new file nor the old one.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._written: set[str] = set()  # names: the first of each is checked

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
        """The checkpoint, with the paths in it as its directory lies now.

        ModelCheckpoint forgets its best score where its directory is not the one it was.
        """
        checkpoint = super().load_checkpoint(path, weights_only=True)
        here = Path(path).absolute().parent
        for state in checkpoint.get("callbacks", {}).values():
            if isinstance(state, dict) and isinstance(state.get("dirpath"), str):
                before = Path(state["dirpath"])
                if before.name == here.name and before != here:
                    state.update(moved(state, str(before), str(here)))
        return checkpoint
