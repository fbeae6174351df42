"""What loading asks of the whole process: short turns of its threads, memory given back."""

import ctypes
import gc
import sys
import threading

# How long a thread keeps the interpreter while a version is built.
_TURN_S = 0.0005


class ShortTurns:
    """While versions are built in other threads, these hand the interpreter on ten times as often.

    Building explanation tables is Python: with the usual turns of 5 ms a call that comes back from
    the engine or a socket waits that long each time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loads = 0
        self._usual_s = 0.0

    def __enter__(self) -> None:
        with self._lock:
            if self._loads == 0:
                self._usual_s = sys.getswitchinterval()
                sys.setswitchinterval(_TURN_S)
            self._loads += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._loads -= 1
            if self._loads == 0:
                sys.setswitchinterval(self._usual_s)


SHORT_TURNS = ShortTurns()


def give_back() -> None:
    """Collect, and return freed memory to the system: glibc keeps arenas (Triton#4966)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
