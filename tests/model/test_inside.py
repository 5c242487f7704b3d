"""Adapters inside the layers of a backbone, full fine-tuning, and the mix of layers."""

import copy
import json
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import more_scvi as more
from more_scvi.base._prepare import prepare
from more_scvi.model._fit import make_training_set

MINI = {
    "bottleneck": {"adapter": "bottleneck"},
    "lora": {"adapter": "lora"},
    "all layers": {"adapter": "lora", "adapter_layers": 3, "adapter_rank": 3},
    "full": {"freeze_backbone": False},
}
BERT = {
    "bert bottleneck": {"backbone": "tiny-bert", "adapter": "bottleneck", "adapter_layers": 1, "adapter_rank": 4},
    "bert lora": {"backbone": "tiny-bert", "adapter": "lora"},
    "bert full": {"backbone": "tiny-bert", "freeze_backbone": False},
}
WAYS = MINI | BERT
# without weight decay a parameter moves only if it had a gradient
FIT = {"accelerator": "cpu", "enable_progress_bar": False, "batch_size": 80, "plan_kwargs": {"weight_decay": 0.0}}


def n_expected(way: str, d: int, layers: int, features: int, tokens: int) -> int:
    """Parameters that train inside the layers, by formula."""
    args = WAYS[way]
    k, r = args.get("adapter_layers", 2), args.get("adapter_rank", 8)
    if args.get("adapter") == "lora":  # query and value each r·d + d·r; of the joined qkv: r·d + 3d·r
        return 4 * k * r * d
    if args.get("adapter") == "bottleneck":  # down d·r + r, up r·d + d
        return k * (2 * d * r + r + d)
    if "bert" in way:  # four d·d maps, two of 32·d, their biases, two norms
        return layers * (4 * d * d + 2 * 32 * d + 4 * d + (32 + d) + 4 * d)
    return layers * (8 * d * d + 11 * d) + 2 * d + d * features  # and the last norm and the read-out


def inside_state(model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.module.state_dict().items() if k.startswith("inside.")}


def tokens_of(model):
    """What the trained part inside the backbone reads of the registered cells."""
    return make_training_set(model.reader, model.adata, np.arange(model.adata.n_obs), 0, model.seed, "cpu").inside


def bases_of(model):
    """Bases of the registered cells without and with what is trained inside the backbone."""
    cells = model.reader.cells(model.adata)
    features = model.reader.features(cells, model.reader.caches(cells, "cpu"))
    return prepare(cells, model.module.linear, features).base, model.reader.arrays(model.adata).base


@dataclass
class Trained:
    """A model that was trained for four steps, and what it was before."""

    way: str
    model: more.MoRE
    start: np.ndarray
    default_start: np.ndarray
    default_names: set[str]
    inside: dict[str, torch.Tensor]
    frozen: dict[str, torch.Tensor]
    fingerprint: str
    in_training_mode: tuple


@pytest.fixture(scope="module", params=WAYS)
def trained(request, make_model):
    way = request.param
    if "bert" in way:
        pytest.importorskip("transformers")
    if way == "bert lora":
        pytest.importorskip("peft")
    default, model = make_model(WAYS[way].get("backbone", "tiny-mini")), make_model(**WAYS[way])
    for untrained in (default, model):
        untrained.train(max_epochs=0, **FIT)
    frozen = {k: v.clone() for k, v in model.module.inside.named_parameters() if not v.requires_grad}
    start, default_start = model.get_latent_representation(), default.get_latent_representation()
    names, before, fingerprint = set(default.module.state_dict()), inside_state(model), model.backbone.fingerprint()
    arrays, inside = tokens_of(model), model.module.train().inside
    tokens, keep = torch.from_numpy(arrays.tokens).float(), torch.from_numpy(arrays.keep)
    passes = [inside.adapter(tokens, keep).detach() for _ in range(2)], arrays.frozen
    model.module.eval()
    model.train(max_epochs=2, **FIT)
    return Trained(way, model, start, default_start, names, before, frozen, fingerprint, passes)


def test_nothing_changes_before_the_first_step(trained):
    np.testing.assert_allclose(trained.start, trained.default_start, atol=1e-4, rtol=0)


def test_no_dropout_in_the_layers_even_in_training(trained):
    (one, two), frozen = trained.in_training_mode
    assert torch.equal(one, two)
    np.testing.assert_allclose(one, frozen, atol=1e-5)


def test_every_adapter_parameter_learns_and_the_backbone_does_not(trained):
    model = trained.model
    for name, value in inside_state(model).items():
        assert not torch.equal(value, trained.inside[name]), f"{name} had no gradient"
    assert model.backbone.fingerprint() == trained.fingerprint
    assert all(p.grad is None and not p.requires_grad for p in model.backbone.parameters())
    now = dict(model.module.inside.named_parameters())
    assert all(torch.equal(now[k], v) for k, v in trained.frozen.items())


def test_what_was_learned_inside_moves_the_frozen_columns_and_the_embedding(trained):
    model = trained.model
    base, moved = bases_of(model)
    columns = slice(0, model.module.base("rna").path_widths[0])
    assert np.abs(moved[:, columns] - base[:, columns]).max() > 1e-3
    assert np.array_equal(moved[:, columns.stop :], base[:, columns.stop :])
    z = model.get_latent_representation()
    for batch_size, indices in ((7, None), (None, [5, 2])):
        part = model.get_latent_representation(batch_size=batch_size, indices=indices)
        np.testing.assert_allclose(part, z if indices is None else z[indices], atol=1e-5)


def test_the_saved_file_holds_only_the_adapter_and_gives_the_same_model(trained, few_genes, tmp_path, tiny_sizes):
    model = trained.model
    model.save(tmp_path / "m")
    saved = load_file(tmp_path / "m" / "adapters.safetensors")
    added = {name: tensor for name, tensor in saved.items() if name not in trained.default_names}
    assert trained.default_names <= set(saved)
    assert all(name.startswith("inside.adapter.") for name in added)
    n = n_expected(trained.way, **tiny_sizes)
    assert sum(tensor.numel() for tensor in added.values()) == n
    n_mix = tiny_sizes["layers"] + 1 if "bert" in trained.way else 0
    counts = model.parameter_counts()
    assert counts.loc["inside", "trained"] == n + n_mix
    assert counts.loc["backbone", "frozen"] == model.backbone.n_parameters()

    z, p = model.get_latent_representation(), model.predict(soft=True)
    again = more.MoRE.load(tmp_path / "m", few_genes.copy(), accelerator="cpu")
    np.testing.assert_allclose(again.get_latent_representation(), z, atol=1e-5)
    np.testing.assert_allclose(again.predict(soft=True), p, atol=1e-5)
    without = more.MoRE.load(tmp_path / "m", adata=False, accelerator="cpu")
    own = without.get_latent_representation(few_genes[:7].copy(), obsm_key=None)
    np.testing.assert_allclose(own, z[:7], atol=1e-4)


def test_cells_of_other_length_do_not_matter(trained):
    arrays = tokens_of(trained.model)
    lengths = arrays.keep.sum(1)
    assert ("bert" in trained.way) == (lengths.min() < lengths.max())
    adapter, short = trained.model.module.inside.adapter, np.argsort(lengths)[:3]
    alone = arrays.rows(short)
    assert alone["tokens"].shape[1] == lengths[short].max()
    together = {"tokens": arrays.tokens[short], "keep": arrays.keep[short]}
    with torch.no_grad():
        one, two = (
            adapter(torch.from_numpy(x["tokens"]).float(), torch.from_numpy(x["keep"])) for x in (alone, together)
        )
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_more_training_is_seen_at_once(make_model):
    model = make_model(epochs=1, adapter="bottleneck")
    first = model.reader.arrays(model.adata).base
    model.train(max_epochs=1, **FIT)
    assert np.abs(model.reader.arrays(model.adata).base - first).max() > 1e-4


def test_full_fine_tuning_is_gentle(make_model):
    model = make_model(freeze_backbone=False)
    tuned, new = inside_state(model), {k: v.clone() for k, v in model.module.adapters.state_dict().items()}
    # Adam moves every weight by about its learning rate in the first step
    model.train(max_epochs=1, **(FIT | {"batch_size": 160}))
    step = max(float((v - tuned[k]).abs().max()) for k, v in inside_state(model).items())
    largest = max(float((v - new[k]).abs().max()) for k, v in model.module.adapters.state_dict().items())
    assert 0 < step < 0.2 * largest


def test_another_backbone_is_refused(make_model, tmp_path):
    model = make_model(adapter="lora")
    model.save(tmp_path / "m")
    card = json.loads((tmp_path / "m" / "model.json").read_text())
    card["arguments"]["backbone_kwargs"] = {"seed": 1}
    (tmp_path / "m" / "model.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="fingerprint"):
        more.MoRE.load(tmp_path / "m", adata=False)


def test_a_model_saved_before_there_were_inside_adapters_loads(make_model, tmp_path):
    model = make_model(epochs=1)
    model.save(tmp_path / "m")
    card = json.loads((tmp_path / "m" / "model.json").read_text())
    for name in ("adapter", "adapter_layers", "adapter_rank", "freeze_backbone"):
        del card["arguments"][name]
    (tmp_path / "m" / "model.json").write_text(json.dumps(card))
    again = more.MoRE.load(tmp_path / "m", model.adata.copy(), accelerator="cpu")
    assert np.array_equal(again.get_latent_representation(), model.get_latent_representation())
    assert not any(name.startswith("inside") for name in load_file(tmp_path / "m" / "adapters.safetensors"))


def test_cells_without_rna_are_left_alone(few_genes):
    symbols = list(few_genes.var_names)
    mdata = more.data.simulate_multiomics(
        120,
        3,
        2,
        modalities=("rna", "protein"),
        n_genes=60,
        gene_names=symbols,
        n_proteins=8,
        pattern={"batch0": ("rna", "protein"), "batch1": ("protein",)},
    )
    modalities = {"rna": "rna", "protein": "protein"}
    more.MoRE.setup_mudata(mdata, modalities, batch_key="batch", labels_key="cell_type")
    model = more.MoRE(mdata, backbone="tiny-mini", adapter="lora", n_components=10, n_wide=20, seed=0)
    model.train(max_epochs=2, **FIT)
    present = model.reader.arrays(mdata).present[:, 0]
    moved = np.not_equal(*bases_of(model)).any(1)
    assert 0 < present.sum() < len(moved)
    assert np.array_equal(moved, present)
    assert np.isfinite(model.get_latent_representation()).all()


# ---- the mix of layers


def test_the_mix_starts_even_and_finds_the_layer_that_tells_types(make_model, tmp_path):
    model = make_model("blocks")
    assert model.get_layer_weights().tolist() == [0.25] * 4
    assert model.module.base("rna").paths["frozen"].rotation.shape == (10, 10)
    model.train(max_epochs=0, **FIT)
    blocks, base = tokens_of(model).blocks, bases_of(model)[0][:, :10]
    assert np.ptp(blocks.astype(np.float32).mean(1) - base, axis=0).max() < 0.3  # up to the place of the batches
    model = make_model("blocks", epochs=15)
    weights = model.get_layer_weights()
    assert weights[2] > weights.drop(2).max() + 0.05
    assert weights.sum() == pytest.approx(1.0)
    model.save(tmp_path / "m")
    again = more.MoRE.load(tmp_path / "m", model.adata.copy(), accelerator="cpu")
    assert again.get_layer_weights().equals(weights)
    np.testing.assert_allclose(again.get_latent_representation(), model.get_latent_representation(), atol=1e-5)


def test_layers_of_other_size_count_the_same(make_model):
    one, two = (
        make_model("blocks", epochs=0, backbone_kwargs={"scale": scale}).get_latent_representation()
        for scale in (1.0, 50.0)
    )
    np.testing.assert_allclose(one, two, atol=0.05)


def test_one_feature_has_no_layer_weights(make_model):
    with pytest.raises(ValueError, match="one feature per cell"):
        make_model().get_layer_weights()


# ---- refusals


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"adapter": "lroa"}, ValueError, ["'lroa'", "'lora'"]),
        ({"adapter": None}, ValueError, ["adapter=None", "'output'"]),
        ({"adapter": "lora", "adapter_layers": 0}, ValueError, ["adapter_layers=0"]),
        ({"adapter": "lora", "adapter_layers": 4}, ValueError, ["adapter_layers=4", "1 to 3"]),
        ({"adapter": "lora", "adapter_layers": 1.5}, TypeError, ["adapter_layers=1.5"]),
        ({"adapter": "lora", "adapter_rank": 0}, ValueError, ["adapter_rank=0"]),
        ({"adapter": "bottleneck", "backbone": None}, ValueError, ["adapter='bottleneck'", "backbone=None"]),
        ({"adapter": "lora", "backbone": "blocks"}, ValueError, ["adapter='lora'", "'blocks'", "none"]),
        (
            {"adapter": "lora", "backbone": "precomputed", "backbone_kwargs": {"obsm_key": "X_own"}},
            ValueError,
            ["adapter='lora'", "'precomputed'"],
        ),
        ({"freeze_backbone": False, "backbone": None}, ValueError, ["freeze_backbone=False", "backbone=None"]),
        ({"freeze_backbone": False, "adapter": "lora"}, ValueError, ["freeze_backbone=False", "adapter='output'"]),
        ({"freeze_backbone": "no"}, TypeError, ["freeze_backbone='no'"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_refusals_say_what_to_do(few_genes, kwargs, error, words):
    adata = few_genes.copy()
    adata.obsm["X_own"] = np.ones((adata.n_obs, 3))
    more.MoRE.setup_anndata(adata, batch_key="batch", labels_key="label")
    with pytest.raises(error) as caught:
        more.MoRE(adata, **{"backbone": "tiny-mini", **kwargs})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_lora_in_a_transformers_model_says_that_it_needs_peft(make_model, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"more-scvi\[foundation\]"):
        make_model("tiny-bert", adapter="lora")


def test_lora_needs_layers_it_knows(make_model):
    backbone = make_model().backbone
    top = copy.deepcopy(backbone.top_layers(1))
    top.lora_targets = ("query",)
    with pytest.raises(ValueError, match="lora_targets"):
        more.module.InsideAdapter(top, "lora", 2)
