"""When the first training step of a process was finished: for the benchmark."""

import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback


class FirstStep(Callback):
    """Writes the time of day, in seconds, to `path` after the first training step."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, *args: Any) -> None:
        if not self.path.exists():
            self.path.write_text(f"{time.time():.6f}", encoding="utf-8")
