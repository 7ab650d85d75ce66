"""Train a small CNN from a configuration, see what it learned, trust what you see.

    import simplecnn
    from simplecnn import Classifier, SimpleCNN, conv2d, receptive_fields

    run = simplecnn.train(["experiment=quickstart"])
    run = simplecnn.load("outputs/quickstart/…")

Public names are imported lazily, because importing torch and Lightning takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simplecnn.api import load as load
    from simplecnn.api import train as train
    from simplecnn.convolution import conv2d as conv2d
    from simplecnn.convolution import conv2d_gradients as conv2d_gradients
    from simplecnn.data.image_folder import ImageFolderDataModule as ImageFolderDataModule
    from simplecnn.data.mnist import MNISTDataModule as MNISTDataModule
    from simplecnn.inference.networks import load_safetensors as load_safetensors
    from simplecnn.inference.trained_run import TrainedRun as TrainedRun
    from simplecnn.models.classifier import Classifier as Classifier
    from simplecnn.models.simple_cnn import SimpleCNN as SimpleCNN
    from simplecnn.receptive_field import receptive_fields as receptive_fields

MODULES = {
    "Classifier": "simplecnn.models.classifier",
    "ImageFolderDataModule": "simplecnn.data.image_folder",
    "MNISTDataModule": "simplecnn.data.mnist",
    "SimpleCNN": "simplecnn.models.simple_cnn",
    "TrainedRun": "simplecnn.inference.trained_run",
    "conv2d": "simplecnn.convolution",
    "conv2d_gradients": "simplecnn.convolution",
    "load": "simplecnn.api",
    "load_safetensors": "simplecnn.inference.networks",
    "receptive_fields": "simplecnn.receptive_field",
    "train": "simplecnn.api",
}
__all__ = list(MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module 'simplecnn' has no attribute {name!r}")
    if MODULES[name] == "simplecnn.api":
        from simplecnn.training.processor import configure_threads

        configure_threads()  # must precede the import of torch
    return getattr(import_module(MODULES[name]), name)
