"""Progress bars: shown unless the caller, or the environment, wants none."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_HIDDEN: ContextVar[bool] = ContextVar("hidden", default=False)


@contextmanager
def without_bars(hide: bool = True) -> Iterator[None]:
    """Hide all bars of what runs within; ``hide=False`` leaves it as it is."""
    before = _HIDDEN.set(_HIDDEN.get() or hide)
    try:
        yield
    finally:
        _HIDDEN.reset(before)


def progress_bar(*args: Any, show: bool = True, **kwargs: Any) -> Any:
    """A tqdm bar. If nobody hides it nothing is said of ``disable``, which ``TQDM_DISABLE`` then decides."""
    from tqdm.auto import tqdm  # here: commands that show no bar start sooner

    hidden = _HIDDEN.get() or not show
    return tqdm(*args, **kwargs, **({"disable": True} if hidden else {}))
