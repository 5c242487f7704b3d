"""A modality is one object: one from outside the package goes every way that the built-in ones go."""

import ast
from pathlib import Path

import mudata
import numpy as np
import pytest

import more_scvi as more
from more_scvi.modalities import Modality, _modality, get_modality, list_modalities, register_modality

from .methylation import Methylation

SOURCE = Path(more.__file__).parent
pytestmark = pytest.mark.filterwarnings("ignore:From 0.4:FutureWarning")


def as_query(met) -> mudata.MuData:
    return mudata.MuData({"met": met})


def test_the_file_is_short():
    assert len(Path(__file__).with_name("methylation.py").read_text().splitlines()) <= 80


def test_modalities_come_in_the_order_of_the_registry(model):
    assert list_modalities()[:3] == ["rna", "atac", "protein"]
    assert model.modalities == ["rna", "methylation"]
    assert model.summary_stats["n_methylation"] == 60
    assert "60 regions" in str(model._model_summary_string)


def test_linked_regions_are_read_by_the_backbone(model):
    assert model.module.base("methylation").path_names == ["frozen", "direct"]
    assert model.schema.links["methylation"].sum() == 30


def test_cells_of_one_type_are_neighbours_whatever_was_measured(model, data):
    mdata, met = data
    z = model.get_latent_representation(obsm_key=None)
    types = mdata["rna"].obs["cell_type"].to_numpy()
    assert np.isfinite(z).all()
    query = model.get_latent_representation(as_query(met), obsm_key=None)
    nearest = ((query[:, None] - z[None]) ** 2).sum(2).argmin(1)
    assert (types[nearest] == met.obs["cell_type"].to_numpy()).mean() > 0.9


def test_a_query_of_methylation_alone_is_annotated(model, data):
    predicted = model.predict(as_query(data[1]))
    assert (np.asarray(predicted).ravel() == data[1].obs["cell_type"].to_numpy()).mean() > 0.9


def test_methylation_is_imputed_where_only_rna_was_measured(model, data):
    mdata, _ = data
    rna_only = np.flatnonzero(~mdata.obs_names.isin(mdata["met"].obs_names))
    shares = model.impute("methylation", indices=rna_only)
    assert shares.shape == (40, 60) and 0 <= shares.to_numpy().min() and shares.to_numpy().max() <= 1
    from .conftest import methylated

    truth = methylated(mdata["rna"].obs.loc[shares.index], mdata["rna"].var_names.tolist(), 0).obsm["share"]
    average = mdata["met"].X.toarray().mean(0)
    assert ((shares - truth) ** 2).to_numpy().mean() < 0.3 * ((average - truth) ** 2).mean()


def test_the_masked_term_learns_from_methylation(model):
    assert np.isfinite(model.history["loss_masked_train"].to_numpy(float)).all()
    assert model.module.decoders["methylation"].map.write.weight.abs().max() > 0


def test_saved_and_loaded_without_data_it_says_the_same(model, data, tmp_path):
    query = as_query(data[1])
    before = model.get_latent_representation(query, obsm_key=None)
    model.save(tmp_path / "model")
    again = more.MoRE.load(tmp_path / "model", adata=False)
    assert np.array_equal(again.get_latent_representation(query, obsm_key=None), before)
    attached = more.MoRE.load(tmp_path / "model", data[0])
    assert attached.impute("methylation").equals(model.impute("methylation"))


def test_a_model_of_an_unregistered_modality_says_what_to_do(model, tmp_path, monkeypatch):
    model.save(tmp_path / "model")
    monkeypatch.delitem(_modality._REGISTRY, "methylation")
    with pytest.raises(ValueError, match="No modality 'methylation'.*'rna', 'atac', 'protein'.*register_modality"):
        more.MoRE.load(tmp_path / "model", adata=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x * 100, "mdata\\['met'\\].X reaches 100.*shares of methylated reads, 0 to 1"),
        (lambda x: x - 0.5, "negative values.*region 'region.*shares of methylated reads"),
        (lambda x: x * np.nan, "NaN"),
    ],
    ids=["per-cent", "m-values", "nan"],
)
def test_values_that_are_no_shares_are_refused(model, data, change, words):
    met = data[1].copy()
    met.X = change(met.X.toarray())
    for call in (
        lambda: more.MoRE.setup_mudata(as_query(met), {"methylation": "met"}),
        lambda: model.predict(as_query(met)),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"rna": "gene"}, ValueError, "feature_genes='rna'.*'methylation'"),
        ({"methylation": "nearest"}, KeyError, r"feature_genes\['methylation'\]='nearest'.*'gene'"),
        ({"methylation": 3}, TypeError, r"feature_genes\['methylation'\]=3.*regions × genes matrix"),
        ("gene", TypeError, "feature_genes='gene'"),
    ],
    ids=["rna", "column", "number", "text"],
)
def test_genes_of_features_that_cannot_be_used(data, given, error, words):
    with pytest.raises(error, match=words):
        more.MoRE.setup_mudata(as_query(data[1]), {"methylation": "met"}, feature_genes=given)


class Nameless(Methylation):
    name = "two words"


class Wordless(Modality):
    name = "wordless"
    path = decoder = expected = None


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (Methylation, TypeError, "not the class Methylation"),
        ("rna", TypeError, "not a str"),
        (Nameless(), ValueError, "'two words'"),
        (Wordless(), ValueError, "lacks title, features, values"),
        (type("Other", (Methylation,), {"name": "rna"})(), ValueError, "'rna' is registered already"),
    ],
    ids=["class", "text", "name", "words", "taken"],
)
def test_what_cannot_be_registered(given, error, words):
    before = {name: get_modality(name) for name in list_modalities()}
    with pytest.raises(error, match=words):
        register_modality(given)
    assert before == {name: get_modality(name) for name in list_modalities()}


def test_registering_the_same_again_is_fine():
    register_modality(Methylation())  # a cell of a notebook run twice
    assert list_modalities().count("methylation") == 1


def test_no_other_file_asks_which_modality_it_is():
    names = {"rna", "atac", "protein", "prot"}
    for path in SOURCE.rglob("*.py"):
        if path.parent.name == "modalities":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                words = {v.value for v in ast.walk(node) if isinstance(v, ast.Constant) and isinstance(v.value, str)}
                assert not words & names, f"{path.relative_to(SOURCE)}:{node.lineno} compares {words & names}"
