"""One thread for small networks and regressions."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def one_thread(small: bool = True) -> Iterator[None]:
    """Run what stands below on one thread, if it is ``small``.

    The threads of a small operation wait for each other at its end: alone that gains nothing, and beside other
    processes on the same cores it costs many times the CPU seconds.
    """
    if not small:
        yield
        return
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):  # BLAS of NumPy and SciPy, which torch's setting does not reach
            yield
    finally:
        torch.set_num_threads(n)
