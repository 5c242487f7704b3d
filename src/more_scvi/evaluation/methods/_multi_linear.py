"""Linear baselines for several modalities: views side by side, classifiers per modality, gene-linked transfer.

Proteins of cells without them, and labels of cells whose modality has none, are carried over by what cells share.
Where no cell has both modalities there are the genes: an antibody measures the product of one, a peak lies at one.
:func:`linked_features` brings both sides to the same genes; :func:`cca` finds the directions they share.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors
from sklearn.preprocessing import StandardScaler, normalize, scale

from more_scvi.evaluation._data import (
    ATAC,
    PROTEIN,
    RNA,
    UNLABELED,
    Data,
    batches_of,
    dense,
    modalities,
    pattern,
    prepare,
    present,
)

from ._method import Given, Method, Result, register_method
from ._shared import centre, labels_of, probabilities, shared_watch, variable_genes


def _view(data: Data, name: str, centred: bool) -> NDArray[np.float32]:
    """View of the cells that have a modality, with the mean of each batch or of all cells removed."""
    z = modalities(data)[name].obsm["view"]
    return centre(z, batches_of(data)[present(data, name)]) if centred else z - z.mean(axis=0)


def _wide(data: Data, name: str, centred: bool = False) -> Any:
    """What a logistic regression reads of a modality: log-normalised HVGs, z-scored CLR, LSI scaled as a whole."""
    if name == RNA:
        return variable_genes(data)
    view = _view(data, name, centred)
    return view / (view.std() if name == ATAC else view.std(axis=0) + 1e-8)


@register_method
class Blocks(Method):
    """Views side by side, each scaled to unit total variance; a missing modality is filled with its mean."""

    name = "blocks"

    def run(self, given: Given, centred: bool = False, names: tuple[str, ...] | None = None) -> Result:
        data = given.data
        names = names or tuple(modalities(data))
        watch, blocks = shared_watch(data, names), []
        with watch("embedding"):
            for name in names:
                view = _view(data, name, centred)
                block = np.zeros((data.n_obs, view.shape[1]), dtype=np.float32)
                block[present(data, name)] = view / np.sqrt(view.var(axis=0).sum())
                blocks.append(block)
        return Result(np.hstack(blocks), None, None, watch.cpu, watch.wall)


@register_method
class Niche(Method):
    """Components of the RNA beside their mean over the nearest spots of the same section."""

    name = "niche"
    needs = ("rna",)

    def run(self, given: Given, centred: bool = True, n_neighbors: int = 6) -> Result:
        data = given.data
        watch, view, batches = shared_watch(data), _view(data, "rna", centred), batches_of(data)
        mean = np.zeros_like(view)
        with watch("embedding"):
            for name in np.unique(batches):
                rows = np.flatnonzero(batches == name)
                search = NearestNeighbors(n_neighbors=min(n_neighbors, rows.size - 1)).fit(data.obsm["spatial"][rows])
                mean[rows] = view[rows][search.kneighbors(return_distance=False)].mean(axis=1)
        return Result(np.hstack([view, mean]), None, None, watch.cpu, watch.wall)


@register_method
class AllFeatures(Method):
    """Logistic regression on all features side by side; no embedding."""

    name = "lr_features"
    whole = True

    def run(self, given: Given) -> Result:
        data = given.data
        watch, (labels, visible) = shared_watch(data, modalities(data)), labels_of(data)
        with watch("training"):
            x = sparse.csr_matrix(sparse.hstack([sparse.csr_matrix(_wide(data, name)) for name in modalities(data)]))
            model = LogisticRegression(C=1.0, max_iter=300).fit(x[visible], labels[visible])
        with watch("embedding"):
            probability = probabilities(model.predict_proba(x), model.classes_)
        parameters = {"trained": int(model.coef_.size), "frozen": 0}
        return Result(None, model.predict(x), probability, watch.cpu, watch.wall, parameters)


@register_method
class Shared(Method):
    """Classifier per modality, trained on the labelled cells that have it; a cell takes the mean over its modalities.

    A cell none of whose modalities has labelled cells gets no prediction. With a second round the predictions of the
    first count as labels, so that cells with both modalities carry labels from one to the other.
    """

    name = "lr_shared"

    def run(self, given: Given, kind: str = "lr", centred: bool = True, rounds: int = 1) -> Result:
        data = given.data
        watch, (labels, visible) = shared_watch(data, modalities(data)), labels_of(data)
        prediction = labels.astype(object)
        with watch("training"):
            for _ in range(rounds):
                prediction = _vote(data, prediction.astype(str), kind, centred)
                prediction[visible] = labels[visible]
        return Result(None, prediction, None, watch.cpu, watch.wall)


def _vote(data: Data, labels: NDArray[np.str_], kind: str, centred: bool) -> NDArray[np.object_]:
    """Labels of all cells from one classifier per modality; ``"Unknown"`` where none applies."""
    visible = labels != UNLABELED
    types = np.unique(labels[visible])
    probability = np.zeros((data.n_obs, types.size))
    for name in modalities(data):
        of = present(data, name)
        if np.unique(labels[of & visible]).size < 2:
            continue
        x: Any = _wide(data, name, centred) if kind == "lr" else _view(data, name, centred)
        few = min(15, int((of & visible).sum()))
        model = LogisticRegression(max_iter=300) if kind == "lr" else KNeighborsClassifier(few)
        model.fit(x[visible[of]], labels[of & visible])
        probability[np.ix_(of, np.searchsorted(types, model.classes_))] += model.predict_proba(x)
    return np.where(probability.sum(axis=1) > 0, types[probability.argmax(axis=1)], UNLABELED).astype(object)


@register_method
class Ceiling(Method):
    """Cells with one modality: logistic regression trained on the labels of the other half of the same kind."""

    name = "ceiling"
    sees_hidden = True

    def run(self, given: Given) -> Result:
        data = given.data
        watch, (labels, _), kinds = shared_watch(data, modalities(data)), labels_of(data), pattern(data)
        prediction = np.full(data.n_obs, UNLABELED, dtype=object)
        with watch("training"):
            for name in modalities(data):
                rows = kinds == name
                if rows.any():
                    x = _wide(data, name, centred=True)[rows[present(data, name)]]
                    folds = StratifiedKFold(2, shuffle=True, random_state=given.seed)
                    model = LogisticRegression(max_iter=300)
                    with warnings.catch_warnings(action="ignore", category=UserWarning):  # types of a single cell
                        prediction[rows] = cross_val_predict(model, x, labels[rows], cv=folds)
        return Result(None, prediction, None, watch.cpu, watch.wall)


def linked_features(mods: Mapping[str, AnnData]) -> tuple[NDArray, NDArray]:
    """RNA and the other modality over the same genes, z-scored within each, ``(cells of it, n_linked)`` each.

    Log-normalised genes against CLR proteins, or against the log-normalised sum of a gene's peaks (``var["gene"]``).
    Genes that are constant on either side are left out; z-scores are clipped at 10, as Seurat does.
    """
    rna = mods[RNA]
    name = next(other for other in mods if other != RNA)
    other = mods[name]
    of_gene = other.var["gene"].astype(str).to_numpy()
    genes = sorted(set(of_gene) & set(rna.var_names))
    left = rna.layers["lognorm"][:, rna.var_names.get_indexer(genes)].toarray()
    members = sparse.csr_matrix((of_gene[:, None] == np.array(genes)[None, :]).astype(np.float32))
    if name == PROTEIN:  # several antibodies against one protein are averaged
        right = other.obsm["view"] @ (members / np.maximum(members.sum(axis=0), 1)).toarray()
    else:
        activity = (sparse.csr_matrix(other.X) @ members).toarray()
        depth = np.asarray(other.X.sum(axis=1)).reshape(-1, 1)
        right = np.log1p(1e4 * activity / np.maximum(depth, 1))
    varies = (left.std(axis=0) > 0) & (right.std(axis=0) > 0)
    left, right = (StandardScaler().fit_transform(x[:, varies]) for x in (left, right))
    return np.clip(left, -10, 10), np.clip(right, -10, 10)


def cca(left: NDArray, right: NDArray, n_components: int = 30) -> tuple[NDArray, NDArray]:
    """Canonical correlation as in Seurat: SVD of the cells × cells cross-product of linked, z-scored features.

    Cells are standardised over features first; scores are the singular vectors, scaled to unit length per cell. The
    small SVD of the triangular factors gives the same vectors without the cells × cells matrix.
    """
    (q1, r1), (q2, r2) = (np.linalg.qr(scale(x, axis=1)) for x in (left, right))
    u, _, v = np.linalg.svd(r1 @ r2.T, full_matrices=False)
    k = min(n_components, u.shape[1] - 1)
    return normalize(q1 @ u[:, :k]).astype(np.float32), normalize(q2 @ v[:k].T).astype(np.float32)


def transfer_by_anchors(
    reference: NDArray, labels: ArrayLike, query: NDArray, k_anchor: int = 5, k_score: int = 30, k_weight: int = 50
) -> NDArray[np.object_]:
    """Labels ``(n_query,)`` by votes of anchors (mutual nearest neighbours), weighted as in Seurat.

    An anchor's score is the overlap of the neighbourhoods of its two cells; a query cell's weights fall off with the
    distance to the ``k_weight`` nearest anchors. Defaults are those of Seurat v3 (Stuart et al. 2019).
    """
    y = np.asarray(labels).astype(str)
    k = min(k_score, len(reference) - 1, len(query) - 1)
    few = min(k_anchor, k)
    left, right = _near(query, reference, few).multiply(_near(reference, query, few).T).nonzero()
    if not left.size:
        return y[_near(reference, query, 1).indices].astype(object)
    pairs = [(_near(of, reference, k)[left], _near(of, query, k)[right]) for of in (reference, query)]
    shared = np.sum([one.multiply(other).sum(axis=1) for one, other in pairs], axis=0).ravel()
    low, high = np.quantile(shared, [0.01, 0.90])  # where Seurat cuts scores off
    scores = np.clip((shared - low) / max(high - low, 1e-12), 0, 1)
    search = NearestNeighbors(n_neighbors=min(k_weight, left.size)).fit(query[right])
    distance, nearest = search.kneighbors(query)
    weight = (1 - distance / np.maximum(distance[:, -1:], 1e-12)) * scores[nearest]
    weight = 1 - np.exp(-weight / 4) + 1e-12  # Gaussian kernel of bandwidth 1: exp(-w / (2 / sd)²)
    types, code = np.unique(y[left], return_inverse=True)
    votes = np.stack([(weight * (code[nearest] == t)).sum(axis=1) for t in range(types.size)], axis=1)
    return types[votes.argmax(axis=1)].astype(object)


def _near(of: NDArray, among: NDArray, k: int) -> sparse.csr_matrix:
    """Ones ``(n_among, n_of)`` where a row of ``of`` is among the ``k`` nearest to a row of ``among``."""
    return NearestNeighbors(n_neighbors=k).fit(of).kneighbors_graph(among)


@register_method
class Linked(Method):
    """Gene-linked features of both modalities, as they are or as CCA scores; own classifier of CCA: Seurat's anchors.

    A cell with both modalities is represented by its RNA. Counterparts are linked anew, whole but not paired.
    """

    name = "cca"
    needs = ("rna",)

    def run(self, given: Given, canonical: bool = True) -> Result:
        data, counterparts = given.data, given.counterparts
        watch, (labels, visible) = shared_watch(data, modalities(data)), labels_of(data)
        names = [RNA, next(name for name in data.mod if name != RNA)]
        of = {name: present(data, name) for name in names}
        prediction = None
        with watch("training"):
            left, right = linked_features(data.mod)
            if canonical:
                left, right = cca(left, right)
            z = np.zeros((data.n_obs, left.shape[1]), dtype=np.float32)
            z[of[names[1]]], z[of["rna"]] = right, left
        if canonical:
            with watch("embedding"):
                source = visible & (of["rna"] if (visible & of["rna"]).any() else of[names[1]])
                prediction = labels.astype(object)
                prediction[~visible] = transfer_by_anchors(z[source], labels[source], z[~visible])
        unimodal = {}
        if counterparts is not None:
            prepare(counterparts)
            full = linked_features(counterparts.mod)
            unimodal = dict(zip(names, cca(*full) if canonical else full, strict=True))
        return Result(z, prediction, None, watch.cpu, watch.wall, unimodal=unimodal)


@register_method
class Impute(Method):
    """Proteins (log1p counts, batch means removed) regressed on batch-centred PCs of the cells that have both."""

    name = "ridge_impute"
    needs = ("rna", "prot")

    def run(self, given: Given, kind: str = "ridge") -> Result:
        data = given.data
        watch = shared_watch(data)
        has_rna, has_prot, batches = present(data, "rna"), present(data, "prot"), batches_of(data)
        with watch("training"):
            x = np.zeros((data.n_obs, data.mod["rna"].obsm["view"].shape[1]), dtype=np.float32)
            x[has_rna] = _view(data, "rna", centred=True)
            counts = np.log1p(dense(data.mod["prot"].X))
            y = centre(counts, batches[has_prot])
            model = Ridge(alpha=1.0) if kind == "ridge" else KNeighborsRegressor(15)
            paired = has_rna & has_prot
            model.fit(x[paired], y[paired[has_prot]])
        with watch("imputation"):
            imputed = (model.predict(x) + counts.mean(axis=0)).astype(np.float32)
        return Result(None, None, None, watch.cpu, watch.wall, imputed={"prot": imputed})


for _variant in (
    Blocks("blocks_centred", centred=True),
    Blocks("rna_view", names=("rna",), centred=True),
    Blocks("prot_view", names=("prot",), centred=True),
    Blocks("atac_view", names=("atac",), centred=True),
    Niche("niche_raw", centred=False),
    Shared("lr_shared_raw", centred=False),
    Shared("knn_shared", kind="knn"),
    Shared("lr_bridge", rounds=2),
    Linked("linked", canonical=False),
    Impute("knn_impute", kind="knn"),
):
    register_method(_variant)
