"""The LightningDataModules, and the reading, caching, batching and augmentation of images."""
