"""Methods behind one interface; importing this folder makes them known by name."""

from . import _baselines, _more, _multi_linear, _rna_peers, _scvi  # noqa: F401 - register
