"""Data sets: which images train and which are tested (section 4 of the paper), and plain folders.

from htdg.datasets import load_dataset

data = load_dataset("fashionmnist", root="data")
images, names = data.training_images("Sneaker", shots=1, index=1)
for sample in data.test_set("Sneaker", names, limit=1000):
    ...  # sample.image, sample.label (0 normal, 1 anomalous), sample.mask, sample.name
"""

from htdg.datasets import cifar10, folder, mnist, mvtec, paris, sample_sets
from htdg.datasets.base import (
    Dataset,
    DatasetError,
    Entry,
    Sample,
    SampleSequence,
    choose,
    dataset_classes,
    dataset_names,
    load_dataset,
    register,
)
from htdg.datasets.equalise import equalise

__all__ = [
    "Dataset",
    "DatasetError",
    "Entry",
    "Sample",
    "SampleSequence",
    "choose",
    "cifar10",
    "dataset_classes",
    "dataset_names",
    "equalise",
    "folder",
    "load_dataset",
    "mnist",
    "mvtec",
    "paris",
    "register",
    "sample_sets",
]
