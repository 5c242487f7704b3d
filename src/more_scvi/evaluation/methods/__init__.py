"""Methods behind one interface; importing this folder makes them known by name."""

from . import (  # noqa: F401 - register
    _backbones,
    _controls,
    _harmony,
    _linear,
    _more,
    _multi_linear,
    _multi_peers,
    _scanorama,
    _scvi,
)
from ._method import Given, Method, Result, Stopwatch, get_method, leak, list_methods, register_method

__all__ = ["Given", "Method", "Result", "Stopwatch", "get_method", "leak", "list_methods", "register_method"]
