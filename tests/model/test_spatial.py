"""Niches: what surrounds a cell in its section, for an AnnData and for a MuData."""

import mudata
import numpy as np
import pytest

import more_scvi as more
from more_scvi._compat import no_pull
from more_scvi.backbones import get_backbone

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
SETUP = {"batch_key": "batch", "labels_key": "cell_type", "spatial_key": "spatial"}
pytestmark = pytest.mark.filterwarnings("ignore:From 0.4:FutureWarning")


def make_mudata(n_cells=160, seed=0):
    """RNA of all cells, proteins of most; two batches of two sections each, all sections on the same square."""
    names = get_backbone("more-mini").vocabulary.human_symbol[:60]
    mdata = more.data.simulate_multiomics(
        n_cells=n_cells, n_types=3, n_genes=60, n_proteins=12, modalities=("rna", "protein"), gene_names=names,
        markers=0.3, seed=seed,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    section = np.array([f"s{i}" for i in np.arange(n_cells) * 4 // n_cells])
    shift = 5.0 * np.array([int(t[-1]) for t in mdata.obs["cell_type"]])  # types lie together
    mdata["rna"].obsm["spatial"] = np.c_[rng.random(n_cells) * 5 + shift, rng.random(n_cells) * 5]
    mdata["rna"].obs["section"] = section
    with no_pull():
        mdata.mod["protein"] = mdata["protein"][20:].copy()
        mdata.update()
    return mdata


def make_adata(n_cells=160, seed=0):
    return make_mudata(n_cells, seed)["rna"].copy()


def build(adata, epochs=2, **setup):
    more.MoRE.setup_anndata(adata, **{**SETUP, **setup})
    model = more.MoRE(adata, backbone=None, n_views=1, seed=0)
    if epochs is not None:
        model.train(max_epochs=epochs, **QUIET)
    return model


def build_multi(mdata, epochs=2, modalities=None, **setup):
    modalities = {"rna": "rna", "protein": "protein"} if modalities is None else modalities
    more.MoRE.setup_mudata(mdata, modalities, **{**SETUP, **setup})
    model = more.MoRE(mdata, backbone=None, n_views=1, seed=0)
    if epochs is not None:
        model.train(max_epochs=epochs, **QUIET)
    return model


def embed(model, data=None):
    return model.get_latent_representation(data, obsm_key=None)


def close(a, b):
    np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def sections():
    """A model of an AnnData whose neighbours stay within sections."""
    return build(make_adata(), section_key="section")


@pytest.fixture(scope="module")
def multi():
    return build_multi(make_mudata(), section_key="section")


def test_niches_are_read_with_coordinates_only(sections, multi):
    assert "niche" in sections.module.base("rna").path_names
    assert "niche" in multi.module.base("rna").path_names
    assert "niche" not in multi.module.base("protein").path_names
    plain = build(make_adata(), epochs=0, spatial_key=None)
    assert "niche" not in plain.module.base("rna").path_names
    assert np.isfinite(embed(sections)).all() and np.isfinite(embed(multi)).all()
    assert set(sections.predict()) <= {"type0", "type1", "type2"}


@pytest.mark.parametrize("kind", ["anndata", "mudata"])
def test_cells_in_another_order(sections, multi, kind):
    """Coordinates go with their cells: the embedding is permuted like the cells, not changed."""
    order = np.random.default_rng(0).permutation(160)
    if kind == "anndata":
        close(embed(sections, sections.adata[order].copy()), embed(sections)[order])
        return
    with no_pull():
        query = mudata.MuData({name: adata[::-1].copy() for name, adata in multi.adata.mod.items()})
    query.obs = multi.adata.obs.loc[query.obs_names]
    rows = multi.adata.obs_names.get_indexer(query.obs_names)
    close(embed(multi, query), embed(multi)[rows])


def test_training_on_cells_in_another_order(sections):
    """Before training as well: the linear base is that of the same cells."""
    order = np.random.default_rng(0).permutation(160)
    first = build(make_adata(), epochs=0, section_key="section")
    second = build(make_adata()[order].copy(), epochs=0, section_key="section")
    a, b = embed(first)[order], embed(second)
    distances = [np.linalg.norm(z[:60, None] - z[None, :60], axis=2) for z in (a, b)]
    np.testing.assert_allclose(*distances, rtol=1e-2, atol=1e-2)


def test_where_a_cell_lies_matters(sections):
    """The same expression elsewhere in the section: another niche."""
    query = sections.adata.copy()
    inside = np.flatnonzero(query.obs["section"] == "s1")
    query.obsm["spatial"][inside] = query.obsm["spatial"][inside[::-1]]
    moved = np.abs(embed(sections, query) - embed(sections)).max(1)
    others = np.setdiff1d(np.arange(160), inside)
    assert moved[inside].mean() > 0.05
    assert moved[others].max() < 1e-4


@pytest.mark.parametrize("dtype", [object, "category", "string"])
def test_a_query_with_cells_of_no_section_is_refused(sections, dtype):
    query = sections.adata.copy()
    query.obs["section"] = query.obs["section"].astype(object).where(np.arange(query.n_obs) > 2, None).astype(dtype)
    with pytest.raises(ValueError, match="the section of 3 cells is missing"):
        embed(sections, query)


@pytest.mark.parametrize("section_key", ["section", None])
def test_neighbours_never_cross_sections(section_key):
    """All cells of section s3 become others; by default the section is the batch, which holds s2 and s3."""
    model = build(make_adata(), section_key=section_key)
    query = model.adata.copy()
    changed = np.flatnonzero(query.obs["section"] == "s3")
    x = query.X.toarray()
    x[changed] = x[changed, ::-1] * 3
    query.X = x
    moved = np.abs(embed(model, query) - embed(model)).max(1)
    neighbours_of_s3 = (query.obs["section"] == "s2").to_numpy()
    assert moved[changed].min() > 0.01
    assert moved[query.obs["batch"] == "batch0"].max() < 1e-4
    assert (moved[neighbours_of_s3].max() > 0.05) == (section_key is None)


def test_niche_features_of_a_section_before_training():
    """Fitted anew: the mean of the neighbours in one section does not depend on what another section holds."""
    adata, other = make_adata(), make_adata()
    changed = np.flatnonzero(other.obs["section"] == "s3")
    x = other.X.toarray()
    x[changed] = x[np.roll(changed, 7)]  # same cells at other places: the fit is the same, niches of s3 are not
    other.X = x
    bases = []
    for data in (adata, other):
        model = build(data, epochs=0, section_key="section", labels_key=None)
        embed(model)
        base = model.module.base("rna")
        widths = dict(zip(base.path_names, base.path_widths, strict=True))
        start = list(widths).index("niche")
        start = sum(list(widths.values())[:start])
        niche = model.reader.arrays(data).base[:, start : start + widths["niche"]]
        distance = np.linalg.norm(niche[:, None] - niche[None], axis=2)  # axes may be rotated
        bases.append(distance / distance[:80, :80].mean())
    change = np.abs(bases[0] - bases[1])
    assert change[changed][:, :80].mean() > 5 * change[:80, :80].mean()


@pytest.mark.parametrize("how", [{"n_neighbors": 3}, {"radius": 1.5}, {}], ids=["number", "radius", "default"])
def test_kinds_of_neighbours(how):
    model = build(make_adata(), epochs=1, section_key="section", **how)
    assert np.isfinite(embed(model)).all()
    close(embed(model, model.adata.copy()), embed(model))


def test_a_cell_alone_in_its_section_is_its_own_niche(sections):
    query = sections.adata.copy()
    query.obs["section"] = query.obs["section"].astype(str)
    query.obs.loc[query.obs_names[5], "section"] = "alone"
    assert np.isfinite(embed(sections, query)).all()
    close(np.delete(embed(sections, query[:40].copy()), 5, 0).shape, (39, sections.module.n_latent))


def test_the_section_may_be_a_column_of_the_mudata(multi):
    """Like every other column of the cells."""
    mdata = make_mudata()
    mdata.obs["section"] = mdata["rna"].obs["section"].reindex(mdata.obs_names)
    del mdata["rna"].obs["section"]
    close(embed(build_multi(mdata, section_key="section")), embed(multi))


def test_a_mudata_without_rna_has_coordinates_in_its_first_modality():
    mdata = make_mudata()
    mdata["protein"].obsm["xy"] = mdata["rna"].obsm["spatial"][20:]
    with no_pull():
        alone = mudata.MuData({"protein": mdata["protein"].copy()})
    model = build_multi(alone, modalities={"protein": "protein"}, spatial_key="xy")
    assert "niche" in model.module.base("protein").path_names
    assert np.isfinite(embed(model)).all()


def test_saved_and_loaded(sections, multi, tmp_path):
    for name, model in (("a", sections), ("m", multi)):
        model.save(tmp_path / name)
        loaded = more.MoRE.load(tmp_path / name, adata=model.adata.copy(), accelerator="cpu")
        np.testing.assert_allclose(embed(loaded), embed(model), atol=1e-5)
        loaded = more.MoRE.load(tmp_path / name, adata=False, accelerator="cpu")
        close(embed(loaded, model.adata.copy()), embed(model))


# ---- refusals

WRONG = [
    pytest.param({"spatial_key": "xy"}, KeyError, ["spatial_key='xy'", "obsm", "'spatial'"], id="unknown key"),
    pytest.param({"n_neighbors": 4, "radius": 1.0}, ValueError, ["n_neighbors", "radius", "one of them"], id="both"),
    pytest.param({"section_key": "slide"}, KeyError, ["'slide'", "'section'"], id="unknown section"),
    pytest.param({"spatial_key": None, "radius": 1.0}, ValueError, ["radius", "spatial_key"], id="radius alone"),
    pytest.param({"spatial_key": None, "section_key": "section"}, ValueError, ["section_key"], id="section alone"),
    pytest.param({"n_neighbors": 0}, ValueError, ["n_neighbors=0", "at least 1"], id="no neighbours"),
    pytest.param({"n_neighbors": 2.5}, TypeError, ["n_neighbors=2.5"], id="half a neighbour"),
    pytest.param({"radius": -1.0}, ValueError, ["radius=-1.0"], id="negative radius"),
    pytest.param({"spatial_key": "wide"}, ValueError, ["(160, 5)", "(cells, 2)"], id="five axes"),
    pytest.param({"spatial_key": "holes"}, ValueError, ["1 cells", "missing or infinite"], id="missing coordinates"),
]


@pytest.mark.parametrize("kind", ["anndata", "mudata"])
@pytest.mark.parametrize(("kwargs", "error", "words"), WRONG)
def test_refusals_at_setup(kwargs, error, words, kind):
    mdata = make_mudata()
    rna = mdata["rna"]
    rna.obsm["wide"], rna.obsm["holes"] = np.zeros((160, 5)), rna.obsm["spatial"].copy()
    rna.obsm["holes"][3, 0] = np.nan
    before = list(rna.obs), list(rna.uns), list(mdata.obs), list(mdata.uns)
    roles = {} if kind == "anndata" else {"modalities": {"rna": "rna", "protein": "protein"}}
    setup = more.MoRE.setup_anndata if kind == "anndata" else more.MoRE.setup_mudata
    with pytest.raises(error) as caught:
        setup(rna if kind == "anndata" else mdata, **roles, **{**SETUP, **kwargs})
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
    assert (list(rna.obs), list(rna.uns), list(mdata.obs), list(mdata.uns)) == before


@pytest.mark.parametrize("kind", ["anndata", "mudata"])
def test_other_data_without_coordinates_or_sections(sections, multi, kind):
    model = sections if kind == "anndata" else multi
    for slot, key, words in (("obsm", "spatial", "coordinates"), ("obs", "section", "'section'")):
        query = model.adata.copy()
        adata = query if kind == "anndata" else query["rna"]
        del getattr(adata, slot)[key]
        query.obs = query.obs.drop(columns=f"rna:{key}", errors="ignore")  # mudata's copy would do as well
        with pytest.raises(KeyError, match=f"(?s){key}.*{words}|{words}.*{key}|{words}"):
            embed(model, query)


@pytest.mark.parametrize("kind", ["anndata", "mudata"])
def test_coordinates_of_another_width_are_refused(sections, multi, kind, tmp_path):
    """In a query and in data that are loaded with the model; what is refused stays as it was."""
    model = sections if kind == "anndata" else multi
    deep = model.adata.copy()
    rna = deep if kind == "anndata" else deep["rna"]
    rna.obsm["spatial"] = np.c_[rna.obsm["spatial"], np.zeros(rna.n_obs)]
    model.save(tmp_path)
    where = "adata" if kind == "anndata" else r"mdata\['rna'\]"
    said = rf"{where}\.obsm\['spatial'\] holds 3 coordinates per cell.* set up with 2; give 2 per cell, or set"
    for call in (lambda: embed(model, deep), lambda: more.MoRE.load(tmp_path, adata=deep, accelerator="cpu")):
        with pytest.raises(ValueError, match=said):
            call()
    for key in [key for key in rna.obs if key.startswith("_scvi")]:  # as data come from elsewhere
        del rna.obs[key]
    with pytest.raises(ValueError, match=said):
        more.MoRE.load(tmp_path, adata=deep, accelerator="cpu")
    assert not [key for key in rna.obs if key.startswith("_scvi")]


def test_a_model_of_three_coordinates_refuses_two_and_keeps_its_width_when_saved_again(tmp_path):
    adata = make_adata()
    flat = adata.copy()
    adata.obsm["spatial"] = np.c_[adata.obsm["spatial"], np.arange(adata.n_obs) % 3]
    model = build(adata, epochs=0, section_key="section")
    model.save(tmp_path / "a")
    again = more.MoRE.load(tmp_path / "a", adata=adata.copy(), accelerator="cpu")
    again.save(tmp_path / "b")
    for one in (model, again, more.MoRE.load(tmp_path / "b", adata=False, accelerator="cpu")):
        assert embed(one, adata.copy()).shape == (160, model.module.n_latent)
        with pytest.raises(ValueError, match="holds 2 coordinates per cell, but the model was set up with 3; give 3"):
            embed(one, flat)


def test_proteins_alone_need_no_coordinates(multi):
    """The modality with the niche is not there: nothing to ask for."""
    with no_pull():
        query = mudata.MuData({"protein": multi.adata["protein"].copy()})
    query.obs["batch"] = multi.adata.obs["batch"].reindex(query.obs_names)
    assert np.isfinite(embed(multi, query)).all()


def test_what_a_section_without_labels_holds_is_not_weighed():
    cells = make_adata(400)
    types, batch = cells.obs["cell_type"].astype(str), cells.obs["batch"].astype(str)
    cells = cells[(batch == batch.iloc[0]) | (types == types.iloc[0])].copy()  # others hold one type
    new = (cells.obs["batch"].astype(str) != batch.iloc[0]).to_numpy()
    cells.obs["label"] = cells.obs["cell_type"].astype(str).where(~new, "Unknown")
    weighed = []
    for key in (None, "spatial"):
        model = build(cells, 30, labels_key="label", unlabeled_category="Unknown", spatial_key=key)
        weighed.append(bool(model.module.annotator.composition.any()))
    assert weighed == [True, False]
