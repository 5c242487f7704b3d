"""Backbones by name, or by the folder their weights lie in. Anybody can add one."""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._base import Backbone

_REGISTRY: dict[str, tuple[Callable[..., Backbone], Callable[[Path], bool] | None]] = {}
"""Name → factory, and what recognises its folders."""


def register_backbone(
    name: str, factory: Callable[..., Backbone], *, detect: Callable[[Path], bool] | None = None
) -> None:
    """Make a backbone available to :func:`get_backbone` and ``MoRE(adata, backbone=name)``.

    Parameters
    ----------
    name
        Name to ask for it by; registering the name again replaces it.
    factory
        Called with the keyword arguments of :func:`get_backbone`; returns the backbone.
    detect
        Says whether a folder holds weights of this kind; then ``get_backbone(folder)`` calls ``factory(path=folder)``.

    Examples
    --------
    >>> register_backbone("my-net", MyBackbone)  # doctest: +SKIP
    """
    if not callable(factory):
        raise TypeError(f"register_backbone({name!r}): factory must be callable, not {type(factory).__name__}.")
    if not isinstance(name, str) or not name or (detect is not None and not callable(detect)):
        raise TypeError(
            f"register_backbone({name!r}, detect={detect!r}): give a name as text, and a function of a folder or None."
        )
    _REGISTRY[name] = factory, detect


def list_backbones() -> list[str]:
    """Names that :func:`get_backbone` knows, sorted."""
    return sorted(_REGISTRY)


def get_backbone(name_or_path: str | Path, **kwargs: Any) -> Backbone:
    """Build a frozen backbone.

    Parameters
    ----------
    name_or_path
        A registered name (:func:`list_backbones`), or a folder with weights of a registered kind.
    **kwargs
        Passed on, e.g. ``weights="untrained"`` for ``"more-mini"`` or ``n_features=50`` for ``"precomputed"``.

    Raises
    ------
    KeyError
        If the name is unknown.
    ValueError
        If a folder holds no weights that a registered backbone recognises.

    Examples
    --------
    >>> get_backbone("more-mini").n_features
    128
    """
    known = ", ".join(repr(n) for n in list_backbones())
    if not isinstance(name_or_path, str | os.PathLike) or not str(name_or_path):
        given = f"backbone={name_or_path!r} ({type(name_or_path).__name__})"
        raise TypeError(f"{given} is no name: give a folder with weights, or one of {known}.")
    name = str(name_or_path)
    if name not in _REGISTRY:
        folder = Path(name_or_path)
        if not folder.is_dir():
            raise KeyError(
                f"Unknown backbone {name!r}: it is neither a folder nor one of {known}. "
                "Add one with more_scvi.backbones.register_backbone."
            )
        found = [name for name, (_, detect) in _REGISTRY.items() if detect is not None and detect(folder)]
        if not found:
            raise ValueError(f"{folder}: no backbone recognises the files in this folder; known backbones are {known}.")
        name, kwargs = found[0], {"path": folder, **kwargs}
    factory, _ = _REGISTRY[name]
    takes = inspect.signature(factory)
    try:
        takes.bind(**kwargs)
    except TypeError as error:
        raise TypeError(f"Backbone {name!r}: {error}. Its arguments are {', '.join(takes.parameters)}.") from None
    return factory(**kwargs)
