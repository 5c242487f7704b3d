"""Labels that a model does not know: their cells count as not labelled, and that is said."""

import warnings

import numpy as np
import pytest

import more_scvi as more

from .conftest import FIT

KINDS = ["adata", "mdata"]


@pytest.fixture(scope="module")
def models(make_model, make_multi):
    """A model of an AnnData and one of a MuData."""
    return {"adata": make_model(backbone=None, epochs=0), "mdata": make_multi(epochs=0)}


def with_new_labels(model):
    """The model's data; nine cells have one of two labels that it does not know."""
    data = model.adata.copy()
    values = data.obs["label"].astype(str).to_numpy(dtype=object)
    values[:9] = ["new", "newer", "new"] * 3
    data.obs["label"] = values
    return data


def said(call):
    """What a call warns of, about labels."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [str(w.message) for w in caught if "label" in str(w.message)]


@pytest.mark.parametrize("kind", KINDS)
def test_loading_and_training_say_which_labels_are_not_known(models, tmp_path, kind):
    model = models[kind]
    model.save(tmp_path)
    loaded, first = said(lambda: more.MoRE.load(tmp_path, with_new_labels(model)))
    second = said(lambda: loaded.train(max_epochs=0, **FIT))[1]
    for messages in (first, second):
        [message] = messages
        for words in (f"{kind}.obs['label']", "'new', 'newer'", "9 of 160 cells", "not labelled", "new model"):
            assert words in message
    assert list(loaded.labels) == list(model.labels)
    assert not said(lambda: more.MoRE.load(tmp_path, model.adata.copy()))[1]


@pytest.mark.parametrize("kind", KINDS)
def test_labels_given_after_setup_are_not_dropped_without_a_word(models, tmp_path, kind):
    model = models[kind]
    model.save(tmp_path)
    model = more.MoRE.load(tmp_path, model.adata.copy())
    values = model.adata.obs["label"].astype(str).to_numpy(dtype=object)
    unknown = np.flatnonzero(values == "Unknown")[:4]
    values[unknown] = "found later"
    model.adata.obs["label"] = values
    [message] = said(lambda: model.train(max_epochs=0, **FIT))[1]
    assert "'found later'" in message and "4 of 160 cells" in message


def test_a_model_without_labels_says_so_too(few_genes, tmp_path):
    adata = few_genes.copy()
    known, adata.obs["label"] = adata.obs["label"].copy(), "Unknown"
    more.MoRE.setup_anndata(adata, batch_key="batch", labels_key="label")
    model = more.MoRE(adata, backbone=None, seed=0)
    model.train(max_epochs=0, **FIT)
    model.save(tmp_path)
    adata.obs["label"] = known
    [message] = said(lambda: model.train(max_epochs=0, **FIT))[1]
    assert "'type0', 'type1', 'type2'" in message
    [message] = said(lambda: more.MoRE.load(tmp_path, adata))[1]
    assert "'type0', 'type1', 'type2'" in message


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_is_compared_on_known_labels_and_the_others_are_named(models, kind):
    model = models[kind]
    student = model.distill(max_steps=2, holdout=0, progress=False)
    scores, [message] = said(lambda: model.student_fidelity(student, with_new_labels(model)))
    assert "'new', 'newer'" in message and "9 of 160 cells" in message
    assert np.isfinite(scores["macro_f1_student"])
    assert not said(lambda: model.student_fidelity(student, model.adata.copy()))[1]
