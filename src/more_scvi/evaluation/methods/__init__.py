"""Methods behind one interface; importing this folder makes them known by name."""

from . import _baselines, _concord, _more, _multi_linear, _references, _rna_peers, _scvi  # noqa: F401 - register

# Set here, because the file of a method belongs to the fingerprint of its results.
for _method in (
    *(_baselines.GeneRegression, _baselines.Discriminant, _baselines.OneHot, _baselines.Shuffled, _scvi.SCANVI),
    *(_multi_linear.AllFeatures, _multi_linear.Shared, _multi_linear.Ceiling),
):
    _method.needs_labels = True
