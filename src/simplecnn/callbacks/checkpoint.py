"""best.ckpt and last.ckpt, once an epoch."""

from pytorch_lightning.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, the epoch with the best `monitor`. Without a monitor, keeps nothing."""

    def __init__(self, dirpath: str, monitor: str | None = None, mode: str = "max") -> None:
        super().__init__(
            dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=1 if monitor else 0,
            enable_version_counter=False,
        )


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt`, the state after the last finished epoch."""

    def __init__(self, dirpath: str) -> None:
        super().__init__(dirpath, filename="last", enable_version_counter=False)
