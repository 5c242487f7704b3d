"""What can be wrong with a trained model: checks on arrays, each with a value, a limit and a remedy.

Users call ``model.diagnose()``, see :meth:`more_scvi.model.MoRE.diagnose`.
"""

from ._checks import CHECKS
from ._evidence import MAX_CELLS, Evidence, representative
from ._result import Check, Diagnosis

__all__ = ["CHECKS", "MAX_CELLS", "Check", "Diagnosis", "Evidence", "representative"]
