"""A conformance suite for any scvi-tools model of an AnnData or a MuData: each test is one trap that users fell into.

A model takes part through a :class:`ModelCase`: how it is set up, built and trained, what it can do, and which tests it
is known to fail. Known failures are strict: once upstream is repaired, the suite says so.

Numbers name known traps of scvi-tools. Without a test here: T24 to T26 (query surgery), T38 (wording of a printed
line), T44 (weights spread over devices), T45 (default epochs at a million cells), T54 (``tests/test_compat.py``).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pytest
import rich.pretty  # noqa: F401 scvi-tools prints its registry with it and does not import it
import scipy.sparse as sp
import scvi

from more_scvi._compat import no_pull

GENES = """
ACTB ALDOA APOE ATF3 B2M BANK1 BCL2 BLK CCL3 CCL4 CCL5 CCR7 CD14 CD163 CD19 CD2 CD22 CD247 CD27 CD3D CD3E CD3G CD4
CD68 CD69 CD7 CD74 CD79A CD79B CD8A CD8B CLEC10A COL1A1 COL1A2 CSF1R CST3 CTLA4 CTSW CXCR4 EPCAM FCER1A FCGR3A FCN1
FOS FOXP3 GAPDH GNLY GZMA GZMB GZMH GZMK HBA1 HBB HLA-A HLA-DQA1 HLA-DRA IGHD IGHM IL32 IL7R IRF8 JCHAIN JUN KLRB1
KLRD1 KLRF1 KRT18 KRT19 LEF1 LILRA4 LST1 LTB LYZ MKI67 MS4A1 MS4A7 MZB1 NCAM1 NKG7 PF4 PPBP PRF1 PTPRC RPL13 RPS6
S100A4 S100A8 S100A9 SELL SPI1 STMN1 TCF7 TCL1A TIGIT TOP2A TRAC TRDC TYROBP VCAN VIM
""".split()


@dataclass(frozen=True)
class ModelCase:
    """How the suite uses a model.

    Attributes
    ----------
    path
        ``"package.module:Class"``.
    labels
        Arguments of ``setup_anndata`` that register partial labels; None: the model reads no labels.
    init, train, inference
        Arguments added to the constructor, ``train`` and ``get_latent_representation``.
    multi_init
        Arguments added to the constructor for a MuData.
    strategy
        Lightning's name for training in several processes.
    features
        What the model offers beyond the base class; tests ask for them by ``@pytest.mark.needs("...")``.
    known_failures
        ``{"t01": reason}`` or ``{"t19:fortran": reason}`` for one parameter of a test.
    """

    path: str
    labels: dict[str, Any] | None = None
    init: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    inference: dict[str, Any] = field(default_factory=dict)
    multi_init: dict[str, Any] = field(default_factory=dict)
    strategy: str = "ddp"
    features: frozenset[str] = frozenset()
    known_failures: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.split(":")[1]

    @property
    def cls(self) -> type:
        module, name = self.path.split(":")
        return getattr(import_module(module), name)

    def setup(self, adata: ad.AnnData, **kwargs) -> None:
        """Register with batches and, if the model reads them, partial labels; `kwargs` win."""
        self.cls.setup_anndata(adata, **{"batch_key": "batch", **(self.labels or {}), **kwargs})

    def build(self, adata: ad.AnnData, **init):
        return self.cls(adata, **{**self.init, **init})

    def fit(self, model, **train):
        quiet = {"max_epochs": 2, "batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}
        model.train(**{**quiet, **self.train, **train})
        return model

    def fitted(self, adata: ad.AnnData):
        """A model of its own, two epochs."""
        self.setup(adata)
        return self.fit(self.build(adata))

    def setup_multi(self, mdata: mudata.MuData, **kwargs) -> None:
        """As :meth:`setup`, for the two modalities of :func:`make_multi`."""
        given = {"modalities": {"rna": "rna", "protein": "adt"}, "batch_key": "batch", **(self.labels or {})}
        self.cls.setup_mudata(mdata, **{**given, **kwargs})

    def fitted_multi(self, mdata: mudata.MuData, **kwargs):
        """As :meth:`fitted`; `kwargs` go to the registration."""
        self.setup_multi(mdata, **kwargs)
        return self.fit(self.cls(mdata, **{**self.init, **self.multi_init}))

    def latent(self, model, adata=None, indices=None, batch_size=None) -> np.ndarray:
        return model.get_latent_representation(adata, indices=indices, batch_size=batch_size, **self.inference)


SCVI = ModelCase(
    path="scvi.model:SCVI",
    init={"n_hidden": 16, "n_latent": 5},
    strategy="ddp_find_unused_parameters_true",  # its library encoder is not used
    features=frozenset({"collection"}),
    known_failures={
        "t01": "rows of a backed minibatch come back sorted",
        "t02": "training after the first round keeps the evaluation mode the first left behind",
        "t04": "a checkpoint resets is_trained_, later metrics are dropped from history",
        "t05": "only the number of genes is compared",
        "t06:zero": "missing_categories.any() is False for falsy categories",
        "t06:empty-text": "missing_categories.any() is False for falsy categories",
        "t09": "NaN trains to NaN",
        "t10": "the count check draws 20 values from the global generator",
        "t12": "callbacks are appended to the user's list",
        "t16": "external_indexing must cover every cell",
        "t17": "BatchNorm needs more than one cell",
        "t18": "scipy sparse arrays are refused",
        "t19:fortran": "a Fortran array in the user's object is replaced",
        "t22": "a missing batch column raises KeyError",
        "t32": "inference copies a view in place and writes _scvi columns into new data",
        "t33:list-mask": "boolean lists are taken for positions",
        "t33:slice": "slices have no length",
        "t33:empty": "nothing to concatenate",
        "t34": "an empty AnnData is falsy",
        "t39": "every AnnData ever seen is kept",
        "t40": "indices of all cells are saved",
        "t41": "the saved file is a pickle",
        "t42:other-model-before": "random numbers come from the global generators",
        "t50": "scipy sparse arrays are refused",
        "t52": "a second round starts in evaluation mode",
    }
    | ({"t51": "the saved pickle names numpy's private modules"} if np.__version__ >= "2" else {})
    | ({"t30": "the registry helpers read an attribute that does not exist"} if scvi.__version__ < "1.5" else {}),
)
MORE = ModelCase(
    path="more_scvi:MoRE",
    labels={"labels_key": "ct", "unlabeled_category": "Unknown"},
    inference={"obsm_key": None},
    multi_init={"backbone": None, "n_views": 1},  # what is tested there does not depend on the backbone
    features=frozenset({"labels", "frozen", "mudata"}),
)
CASES = [SCVI, MORE]


def pytest_configure(config):
    config.addinivalue_line("markers", "needs(feature): runs for models whose case lists the feature")


def pytest_collection_modifyitems(items):
    for item in items:
        case = getattr(item, "callspec", None) and item.callspec.params.get("case")
        if not isinstance(case, ModelCase):
            continue
        trap = re.match(r"test_(t\d\d)_|", item.name).group(1)
        missing = [m.args[0] for m in item.iter_markers("needs") if m.args[0] not in case.features]
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"{case.name} has no {', '.join(missing)}"))
        for key, reason in case.known_failures.items():
            test, _, parameter = key.partition(":")
            if test == trap and (not parameter or f"-{parameter}]" in item.name):
                item.add_marker(pytest.mark.xfail(strict=True, reason=f"{test.upper()}: {reason}"))


@pytest.fixture(scope="session", params=CASES, ids=lambda case: case.name)
def case(request) -> ModelCase:
    return request.param


@pytest.fixture(autouse=True)
def _seed():
    scvi.settings.seed = 0


@pytest.fixture(scope="session")
def data() -> Callable[..., ad.AnnData]:
    """Factory of small AnnData, see :func:`make_data`."""
    return make_data


def make_data(n_cells: int = 150, seed: int = 0) -> ad.AnnData:
    """Counts of real gene names: three types, two batches, a fifth of the cells unlabelled."""
    rng = np.random.default_rng(seed)
    types, batch = rng.integers(0, 3, n_cells), rng.integers(0, 2, n_cells)
    markers = np.arange(len(GENES)) % 3 == np.arange(3)[:, None]
    log_mean = np.random.default_rng(1).normal(0, 0.5, markers.shape) + markers
    counts = rng.poisson(np.exp(log_mean)[types] * (1 + 0.5 * batch[:, None])).astype(np.float32)
    adata = ad.AnnData(sp.csr_matrix(counts))
    adata.obs_names = [f"s{seed}_c{i}" for i in range(n_cells)]
    adata.var_names = GENES
    adata.obs["batch"] = [f"b{i}" for i in batch]
    adata.obs["ct"] = np.where(rng.random(n_cells) < 0.2, "Unknown", [f"t{i}" for i in types])
    return adata


def make_multi(n_cells: int = 150, seed: int = 0, *, rna=slice(None), adt=slice(None)) -> mudata.MuData:
    """RNA of :func:`make_data` and twelve antibodies that follow genes; `rna` and `adt` choose and order the rows."""
    genes = make_data(n_cells, seed)
    counts = np.random.default_rng(seed + 100).poisson(4 * genes[:, :36:3].X.toarray() + 2).astype(np.float32)
    antibodies = ad.AnnData(sp.csr_matrix(counts))
    antibodies.obs_names = genes.obs_names
    antibodies.var_names = [f"adt_{name}" for name in genes.var_names[:36:3]]
    with no_pull():
        out = mudata.MuData({"rna": genes[rna].copy(), "adt": antibodies[adt].copy()})
    for key in ("batch", "ct"):
        out.obs[key] = genes.obs[key].reindex(out.obs_names).to_numpy()
        del out["rna"].obs[key]
    return out


@pytest.fixture(scope="session")
def multi() -> Callable[..., mudata.MuData]:
    """Factory of small MuData, see :func:`make_multi`."""
    return make_multi


@pytest.fixture(scope="session")
def trained_multi(case, multi):
    """A trained model of all of :func:`make_multi`, shared; tests only read."""
    if "mudata" not in case.features:
        pytest.skip(f"{case.name} has no mudata")
    scvi.settings.seed = 0
    return case.fitted_multi(multi())


@pytest.fixture(scope="session")
def z_multi(case, trained_multi) -> np.ndarray:
    """Embedding of all training cells by the shared model of two modalities."""
    return case.latent(trained_multi)


@pytest.fixture(scope="session")
def trained(case, data):
    """A trained model that the tests of this case share; they only read."""
    scvi.settings.seed = 0
    return case.fitted(data())


@pytest.fixture(scope="session")
def z(case, trained) -> np.ndarray:
    """Embedding of all training cells by the shared model."""
    return case.latent(trained)
