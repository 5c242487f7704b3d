"""What a user calls."""

from more_scvi.model._more import MoRE

__all__ = ["MoRE"]
