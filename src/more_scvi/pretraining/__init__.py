"""How the bundled backbone was made: ``python -m more_scvi.pretraining``."""

from ._finetune import Finetuned, finetune
from ._pool import Pool, full_vocabulary, read_gene_sets, read_pool
from ._programs import fit_front
from ._train import PretrainSettings, pretrain
from ._views import Views, make_views

__all__ = [
    "Finetuned", "Pool", "PretrainSettings", "Views", "finetune", "fit_front", "full_vocabulary", "make_views",
    "pretrain", "read_gene_sets", "read_pool",
]  # fmt: skip
