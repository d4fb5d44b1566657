"""Images of handwritten digits: the small set that ships with the package, and MNIST where it is at hand."""

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from estimator_lab.errors import UsageError

VARIABLE = "ESTIMATOR_LAB_DATA"
"""Environment variable that names the folder of the data."""

MNIST = {
    "train-images-idx3-ubyte.gz": 2051,
    "train-labels-idx1-ubyte.gz": 2049,
    "t10k-images-idx3-ubyte.gz": 2051,
    "t10k-labels-idx1-ubyte.gz": 2049,
}
"""The files of MNIST and the magic numbers they begin with."""


@dataclass(frozen=True, eq=False)
class Images:
    """Square grey images with labels; the first ones are for training, the rest is held out.

    Attributes:
        name: of the data set.
        pixels: ``[N, side * side]``, bytes from 0 to ``white``.
        labels: ``[N]``.
        white: the brightest value.
        training: number of images that are for training.
    """

    name: str
    pixels: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    white: int
    training: int

    @property
    def side(self) -> int:
        """Height and width."""
        return int(self.pixels.shape[1] ** 0.5)

    @property
    def held_out(self) -> int:
        """Number of images that training never sees."""
        return len(self.pixels) - self.training

    @cached_property
    def digest(self) -> str:
        """A name of the content: equal for equal pixels and labels."""
        content = self.pixels.numpy().tobytes() + self.labels.numpy().tobytes()
        return hashlib.sha256(content).hexdigest()[:16]

    def rows(self, index: Tensor | slice, like: Tensor) -> tuple[Tensor, Tensor]:
        """Some images ``[n, side * side]`` in [0, 1], in the dtype and on the device of a tensor, and their labels."""
        return self.pixels[index].to(like) / self.white, self.labels[index].to(like.device)

    def last(self, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The last images of those held out, as ``rows`` gives them.

        Raises:
            UsageError: fewer are held out.
        """
        if not 0 < count <= self.held_out:
            raise UsageError(
                f"{self.held_out} images of {self.name} are held out of training; found a batch of {count}"
            )
        return self.rows(slice(-count, None), like)


@lru_cache
def load_digits() -> Images:
    """1797 images of 8x8 pixels, 1500 of them for training.

    Source: E. Alpaydin and C. Kaynak 1998, Optical Recognition of Handwritten Digits, UCI (CC BY 4.0).
    """
    with files("estimator_lab").joinpath("data/digits8x8.npz").open("rb") as file, np.load(file) as data:
        pixels = torch.from_numpy(data["images"].reshape(-1, 64).astype(np.uint8))
        return Images("digits", pixels, torch.from_numpy(data["labels"].astype(np.int64)), 16, 1500)


@lru_cache
def load_mnist(folder: Path) -> Images:
    """The images of MNIST, 28x28 pixels: 60000 for training and 10000 held out.

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner 1998, Gradient-based learning applied to document recognition.

    Args:
        folder: holds the four files as they were published: ``train-images-idx3-ubyte.gz``,
            ``train-labels-idx1-ubyte.gz``, ``t10k-images-idx3-ubyte.gz``, ``t10k-labels-idx1-ubyte.gz``.

    Raises:
        UsageError: a file is absent, damaged, cut short or of something else.
    """
    missing = [name for name in MNIST if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"{folder} lacks {', '.join(missing)}; MNIST is the four files {', '.join(MNIST)} in one folder"
        )
    images, labels, test_images, test_labels = (_read(folder / name, magic) for name, magic in MNIST.items())
    for kind, x, y in (("train", images, labels), ("t10k", test_images, test_labels)):
        if len(x) != len(y):
            raise UsageError(f"{folder} has {len(x)} {kind} images and {len(y)} labels; put files of one set there")
    pixels = torch.from_numpy(np.concatenate([images, test_images]).reshape(-1, 784))
    return Images("mnist", pixels, torch.from_numpy(np.concatenate([labels, test_labels])).long(), 255, len(images))


def _read(path: Path, magic: int) -> NDArray[np.uint8]:
    """The bytes of an idx file: big-endian magic number and sizes, ``[n, 28, 28]`` or ``[n]``, then one byte each."""
    axes = magic % 256  # the last byte of the magic number counts them
    remedy = "fetch the file again, as it was published"
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be unpacked ({error}); {remedy}") from None
    head = np.frombuffer(content, ">u4", count=min(len(content) // 4, 1 + axes)).tolist()
    if len(head) != 1 + axes or head[0] != magic or head[2:] != [28, 28][: axes - 1]:
        raise UsageError(f"{path} begins with {head}, and not with {magic} and the sizes of MNIST; {remedy}")
    values = np.frombuffer(content, np.uint8, offset=4 * (1 + axes))
    if len(values) != (expected := int(np.prod(head[1:]))):
        raise UsageError(f"{path} holds {len(values)} values where its head says {expected}; {remedy}")
    return values.reshape(head[1:])


def mnist_folder() -> Path | None:
    """The folder that ``ESTIMATOR_LAB_DATA`` names, or ``mnist`` in it, where it holds any file of MNIST."""
    if not (named := os.environ.get(VARIABLE)):
        return None
    found = Path(named).expanduser()
    return next((f for f in (found, found / "mnist") if any((f / name).is_file() for name in MNIST)), None)


def at_hand() -> str:
    """``"mnist"`` where its folder is known, else ``"digits"``."""
    return "digits" if mnist_folder() is None else "mnist"


def load(name: str) -> Images:
    """A set of images by name.

    Raises:
        UsageError: no such set, or MNIST is not at hand.
    """
    if name == "digits":
        return load_digits()
    if name != "mnist":
        raise UsageError(f"there are no images {name!r}; name 'digits' or 'mnist'")
    if (folder := mnist_folder()) is None:
        where = os.environ.get(VARIABLE)
        found = f"it names {where!r}, where neither it nor mnist in it holds them" if where else "it is not set"
        raise UsageError(f"let {VARIABLE} name the folder of MNIST's files ({', '.join(MNIST)}); {found}")
    return load_mnist(folder)
