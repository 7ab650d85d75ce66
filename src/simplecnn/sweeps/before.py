"""What is seen to once, before the jobs of a sweep begin: their folder and their data. No torch."""

import logging
import os
import sys
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from simplecnn.config.composition import settle
from simplecnn.errors import InputError, RunError

log = logging.getLogger(__name__)


class BeforeSweep(Callback):
    """Names the sweep's folder from the root, and downloads what all jobs would ask for at once.

    A job may run in a process with another current folder. A sweep over `data` itself leaves the
    download to its jobs: the first one does it while the others wait. Exit code 1, before the
    first job, where the data cannot be had.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config)  # for what folders refer to
        try:
            name_folder(config)
            words = config.hydra.overrides.task
            if "data" in config and not any(w.startswith("data=") and "," in w for w in words):
                data = {"data": OmegaConf.to_container(config.data, resolve=True)}
                prepare(settle(data, config.hydra, "train")["data"])
        except (InputError, RunError) as error:
            log.error("%s", error)
            sys.exit(1)
        finally:
            HydraConfig.instance().cfg = None


def name_folder(config: DictConfig) -> None:
    """Make hydra.sweep.dir absolute, also in the words from which each job is composed."""
    folder = os.path.abspath(config.hydra.sweep.dir)
    quoted = folder.replace("\\", "\\\\").replace("'", "\\'")
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.sweep.dir = folder
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")


def prepare(data: Any) -> None:
    """See to it that the data of a configuration node are there."""
    if data.get("dataset") == "MNIST5k":
        return  # came with the installation
    if data["_target_"] == "simplecnn.data.mnist.MNISTDataModule":
        from simplecnn.data import files as mnist_files  # unlike the module, imports no torch

        names = ("dataset", "download", "mirrors", "timeout")
        given = {name: data[name] for name in names if name in data}
        mnist_files.prepare(data["data_dir"], **given)
        return
    from simplecnn.config.build import build

    build(data).prepare_data()
