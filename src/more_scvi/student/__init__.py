"""A distilled model: expression to embedding and labels, without backbone, teacher or training data."""

from ._network import StudentNetwork
from ._student import Student

__all__ = ["Student", "StudentNetwork"]
