"""Modalities, one file each: legal values, direct path, links to genes, decoder, scale of imputation."""

from ._antibodies import AntibodyMatch, match_antibodies
from ._components import PrincipalComponents
from ._modality import Decoder, LinearPath, Modality, get_modality, list_modalities, register_modality
from ._parts import LowRankMap
from ._peaks import check_peak_genes, genes_of_peaks, peak_to_gene
from .atac import AccessibilityDecoder, AccessibilityPath, Atac
from .protein import Protein, ProteinDecoder, ProteinPath
from .rna import DirectPath, ExpressionDecoder, Rna, log_normalise

for _builtin in (Rna(), Atac(), Protein()):
    register_modality(_builtin)

__all__ = [
    "AccessibilityDecoder",
    "AccessibilityPath",
    "AntibodyMatch",
    "Decoder",
    "DirectPath",
    "ExpressionDecoder",
    "LinearPath",
    "LowRankMap",
    "Modality",
    "PrincipalComponents",
    "ProteinDecoder",
    "ProteinPath",
    "check_peak_genes",
    "genes_of_peaks",
    "get_modality",
    "list_modalities",
    "log_normalise",
    "match_antibodies",
    "peak_to_gene",
    "register_modality",
]
