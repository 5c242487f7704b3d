"""Backbones by name or folder, the interface, precomputed features."""

import os

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from torch import nn

from more_scvi.backbones import Backbone, Precomputed, _registry, get_backbone, list_backbones, register_backbone


class Depth(Backbone):
    """A third party's backbone: one weight, one feature."""

    name = "depth"
    n_features = 1

    def __init__(self, path=None, factor=1.0):
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.drop = nn.Dropout(0.5)
        self.factor = factor
        self.freeze()

    def encode(self, x, match, *, visible=None, normalised=False):
        return self.factor * np.asarray(x.sum(1), np.float32).reshape(-1, 1)

    def config(self):
        return {"factor": self.factor}


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(_registry, "_REGISTRY", dict(_registry._REGISTRY))


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(KeyError, match="'more-mini', 'precomputed'"):
        get_backbone("more-maxi")


def test_folder_that_nobody_recognises(tmp_path):
    with pytest.raises(ValueError, match="no backbone recognises"):
        get_backbone(tmp_path)


def test_third_party_backbone_by_name_and_folder(tmp_path):
    register_backbone("depth", Depth, detect=lambda folder: (folder / "depth.txt").exists())
    assert "depth" in list_backbones()
    assert get_backbone("depth", factor=2.0).encode(csr_matrix([[1, 2]]), None) == 6
    (tmp_path / "depth.txt").touch()
    assert isinstance(get_backbone(tmp_path), Depth)
    assert get_backbone("depth").fingerprint() != get_backbone("depth", factor=2.0).fingerprint()


def test_factory_must_be_callable():
    with pytest.raises(TypeError, match="str"):
        register_backbone("depth", "Depth")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: get_backbone(None), TypeError, r"None \(NoneType\) is no name.*'more-mini'"),
        (lambda: get_backbone(3), TypeError, r"3 \(int\) is no name"),
        (lambda: get_backbone(""), TypeError, r"'' \(str\) is no name"),
        (lambda: get_backbone("more-mini", layers=3), TypeError, "'more-mini'.*'layers'.*weights, seed"),
        (lambda: get_backbone("precomputed"), TypeError, "'precomputed'.*n_features"),
        (lambda: register_backbone(3, Depth), TypeError, "register_backbone.3.*as text"),
        (lambda: register_backbone("", Depth), TypeError, "as text"),
        (lambda: register_backbone("depth", Depth, detect="*.txt"), TypeError, "function of a folder"),
    ],
)
def test_bad_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_folders_are_looked_into_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match="no backbone recognises"):
        get_backbone(tmp_path)


def test_subclasses_are_frozen():
    backbone = Depth().train()
    assert not backbone.training
    assert not backbone.drop.training
    assert not any(p.requires_grad for p in backbone.parameters())
    assert backbone.n_parameters() == 2


def test_precomputed_hands_rows_on():
    backbone = get_backbone("precomputed", n_features=3)
    x = np.arange(6.0).reshape(2, 3)
    for rows in (x, csr_matrix(x), x.astype(np.float16)):
        z = backbone.encode(rows, None)
        assert z.dtype == np.float32
        np.testing.assert_array_equal(z, x)
    assert backbone.vocabulary is None
    assert backbone.n_parameters() == 0


def test_precomputed_features_of_several_layers():
    backbone = get_backbone("precomputed", n_features=6, n_pooled=3)
    assert (backbone.n_pooled, backbone.config()) == (3, {"n_pooled": 3})
    assert backbone.fingerprint() != get_backbone("precomputed", n_features=6).fingerprint()
    with pytest.raises(ValueError, match="n_pooled=4 does not divide the 6 columns"):
        Precomputed(6, 4)
    with pytest.raises(ValueError, match="n_pooled=0 is too small"):
        Precomputed(6, 0)


def test_precomputed_refuses_other_widths_and_nan():
    with pytest.raises(ValueError, match=r"\(2, 4\), expected \(cells, 3\)"):
        Precomputed(3).encode(np.zeros((2, 4)), None)
    with pytest.raises(ValueError, match="NaN"):
        Precomputed(1).encode(np.array([[np.nan]]), None)
