"""What the core needs from the outside: engines."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

ItemT = TypeVar("ItemT", contravariant=True)
PreparedT = TypeVar("PreparedT")
RawT = TypeVar("RawT")
OutputT = TypeVar("OutputT", covariant=True)


class Engine(Protocol[ItemT, PreparedT, RawT, OutputT]):
    """Runs one loaded model version in three steps.

    `prepare` and `finish` run on the CPU, for one item, off the device's thread; `forward` runs on
    the device, for a batch of prepared items, never concurrently with itself. Any exception of
    `forward` fails the batch; the caller decides whether to bisect.
    """

    def prepare(self, item: ItemT) -> PreparedT:
        """Check and convert one item; raises ValueError when it does not fit the model."""
        ...

    def forward(self, batch: Sequence[PreparedT]) -> RawT:
        """Run the model on a batch."""
        ...

    def finish(self, raw: RawT, batch: Sequence[PreparedT]) -> Sequence[OutputT]:
        """Split raw outputs into one output per item, in the order of the batch."""
        ...

    @property
    def memory_bytes(self) -> int:
        """What the loaded model holds, as far as the engine can tell."""
        ...


# A tabular item is the rows of one call, shape (n, features), float32, NaN where missing; its
# output has shape (n,): a probability per row, or the value of a regression.
Rows = NDArray[np.float32]
Scores = NDArray[np.float64]
TabularEngine = Engine[Rows, Rows, Scores, Scores]


class TextEngine(Protocol):
    """Runs a loaded text model in three steps; `forward` alone needs the device.

    `collate` and `finish` run off the device's thread, so that they overlap the forward of another
    batch. Any exception of `forward` fails the batch; the scheduler bisects it. An engine that lost
    its device raises `DeviceLostError`; one without memory for the batch `DeviceMemoryError`.
    """

    @property
    def device(self) -> str:
        """Where it runs: `cpu`, `cuda:0`, `remote`."""
        ...

    @property
    def executors(self) -> int:
        """How many threads may call `forward` at the same time."""
        ...

    @property
    def pad_multiple(self) -> int:
        """Lengths are padded to a multiple of this."""
        ...

    @property
    def memory_bytes(self) -> int:
        """What the loaded model holds, as far as the engine can tell."""
        ...

    def collate(self, windows: Sequence[NDArray[np.int64]], length: int) -> Any:
        """Pad windows to `length` tokens and put them where the device reads them."""
        ...

    def forward(self, batch: Any) -> Any:
        """Run the model on a collated batch."""
        ...

    def finish(self, raw: Any) -> Scores:
        """Give the logits, shape (windows, labels), float64."""
        ...

    def close(self) -> None:
        """Free what is held; nothing is called afterwards."""
        ...


class DeviceMemoryError(RuntimeError):
    """The device has no memory for this batch; a smaller one may fit."""


class DeviceLostError(RuntimeError):
    """The device cannot be used by this process any more (a CUDA context error)."""
