"""Train a small CNN from a configuration, see what it learned, trust what you see.

    from simplecnn import Classifier, SimpleCNN, conv2d, receptive_fields

Names are imported when they are asked for: torch and Lightning take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simplecnn.convolution import conv2d, conv2d_gradients
    from simplecnn.data.image_folder import ImageFolderDataModule
    from simplecnn.data.mnist import MNISTDataModule
    from simplecnn.models.classifier import Classifier
    from simplecnn.models.simple_cnn import SimpleCNN
    from simplecnn.receptive_field import receptive_fields

MODULES = {
    "Classifier": "simplecnn.models.classifier",
    "ImageFolderDataModule": "simplecnn.data.image_folder",
    "MNISTDataModule": "simplecnn.data.mnist",
    "SimpleCNN": "simplecnn.models.simple_cnn",
    "conv2d": "simplecnn.convolution",
    "conv2d_gradients": "simplecnn.convolution",
    "receptive_fields": "simplecnn.receptive_field",
}
__all__ = [
    "Classifier",
    "ImageFolderDataModule",
    "MNISTDataModule",
    "SimpleCNN",
    "conv2d",
    "conv2d_gradients",
    "receptive_fields",
]


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(import_module(MODULES[name]), name)
    raise AttributeError(f"module 'simplecnn' has no attribute {name!r}")
