"""Backbones by name, or by the folder their weights lie in. Anybody can add one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._base import Backbone


@dataclass(frozen=True)
class _Entry:
    factory: Callable[..., Backbone]
    detect: Callable[[Path], bool] | None


_REGISTRY: dict[str, _Entry] = {}


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
    _REGISTRY[name] = _Entry(factory, detect)


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
    if str(name_or_path) in _REGISTRY:
        return _REGISTRY[str(name_or_path)].factory(**kwargs)
    folder = Path(name_or_path)
    known = ", ".join(repr(n) for n in list_backbones())
    if not folder.is_dir():
        raise KeyError(
            f"Unknown backbone {str(name_or_path)!r}: it is neither a folder nor one of {known}. "
            "Add one with more_scvi.backbones.register_backbone."
        )
    for entry in _REGISTRY.values():
        if entry.detect is not None and entry.detect(folder):
            return entry.factory(path=folder, **kwargs)
    raise ValueError(f"{folder}: no backbone recognises the files in this folder; known backbones are {known}.")
