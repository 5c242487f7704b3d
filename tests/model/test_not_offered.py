"""What users of scvi-tools reach for leads to the next step, in the error and in the documentation."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import scvi

from more_scvi import MoRE
from more_scvi.data import simulate_batches
from more_scvi.model._not_offered import IGNORED, NOT_OFFERED, REFUSED

PAGE = Path(__file__).parents[2] / "docs" / "not_offered.md"
VALUES = {"use_gpu=False": ("use_gpu", False)}


@pytest.fixture(scope="module")
def model():
    adata = simulate_batches(80)
    MoRE.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    model = MoRE(adata, backbone=None)
    model.train(max_epochs=1, enable_progress_bar=False)
    return model


def call(model, method):
    """A call of the method with the least arguments, which takes more."""
    if method == "setup_mudata":
        pytest.skip("shares its table with setup_anndata")
    if method == "setup_anndata":
        return lambda **more: MoRE.setup_anndata(simulate_batches(30), batch_key="batch", **more)
    if method == "load_query_data":
        return lambda **more: MoRE.load_query_data(simulate_batches(80), model, **more)
    if method == "__init__":
        return lambda **more: MoRE(model.adata, backbone=None, **more)
    if method == "train":
        fresh = MoRE(model.adata, backbone=None)
        return lambda **more: fresh.train(max_epochs=1, enable_progress_bar=False, **more)
    return getattr(model, method)


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_what_is_not_offered_is_not_there_and_says_what_to_do(model, name):
    assert not hasattr(MoRE, name) and not hasattr(model, name)
    for owner in (MoRE, model):
        with pytest.raises(AttributeError, match=re.escape(f"MoRE has no {name}: {NOT_OFFERED[name]}.")):
            getattr(owner, name)


def test_next_steps_name_things_that_exist(model):
    texts = [*NOT_OFFERED.values(), *(s for of in (IGNORED, REFUSED) for args in of.values() for s in args.values())]
    named = {name for text in texts for name in re.findall(r"(?:model|MoRE)\.(\w+)", text)} - {
        "SCVI",
        "TOTALVI",
        "PEAKVI",
    }
    assert len(named) > 5 and all(hasattr(model, name) for name in named), named


def test_every_public_method_of_scvi_that_we_lack_has_a_next_step():
    public = {name for name in dir(scvi.model.SCVI) + dir(scvi.model.TOTALVI) if not name.startswith("_")}
    missing = {name for name in public if not hasattr(MoRE, name)} - set(NOT_OFFERED)
    assert missing <= {"minified_data_type", "convert_legacy_save"}


@pytest.mark.parametrize(("method", "name"), [(m, n) for m, names in IGNORED.items() for n in names])
def test_habits_that_change_nothing_are_ignored_in_a_line(model, method, name):
    run = call(model, method)
    with pytest.warns(UserWarning, match=rf"ignores {name}=1: ") as caught:
        run(**{name: 1})
    (ours,) = [one for one in caught if "ignores" in str(one.message)]
    assert "\n" not in str(ours.message) and ours.filename == __file__
    run(**{name: None})


@pytest.mark.parametrize(("method", "name"), [(m, n) for m, names in REFUSED.items() for n in names])
def test_habits_that_would_change_the_result_are_refused(model, method, name):
    key, value = VALUES.get(name, (name, 1))
    with pytest.raises(TypeError, match=f"has no argument {key} .*{re.escape(REFUSED[method][name])}"):
        call(model, method)(**{key: value})


def test_signatures_stay_what_they_are(model):
    assert "accelerator" in inspect.signature(MoRE.train).parameters
    assert "backbone" in inspect.signature(MoRE).parameters
    assert "n_hidden" not in model.init_params_["non_kwargs"]
    with pytest.raises(TypeError, match="n_hiden"):
        MoRE(model.adata, n_hiden=3)
    np.testing.assert_array_equal(
        model.get_latent_representation(obsm_key=None), model.get_latent_representation(None, None, None, None)
    )


def test_the_page_says_what_the_errors_say():
    rows = [
        line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"
    ]
    told = {(name, row[-1]) for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    expected = set(NOT_OFFERED.items())
    for words, table in (("ignored, with a warning", IGNORED), ("refused", REFUSED)):
        expected |= {(name, f"{words}: {step}") for args in table.values() for name, step in args.items()}
    assert told == expected
