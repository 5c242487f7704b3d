"""Tiny checkpoints with random weights, in the files and tensor names in which Geneformer and scGPT are published.

Weights of norms and biases are random, too: otherwise a swap of two of them would pass unnoticed.
"""

import json
import pickle
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

N_GENES = 60
SYMBOLS = [f"GENE{i}" for i in range(N_GENES)]
ENSEMBL = [f"ENSG{i:011d}" for i in range(1, N_GENES + 1)]
D, LAYERS = 32, 3
HEADS = 8  # what scGPT's loader takes where args.json does not say
POSITIONS = 32  # fewer than the longest cell has genes


def toy_counts(seed: int = 0, n_cells: int = 12) -> np.ndarray:
    """Counts of cells of very different depth, so that their sequences differ in length; gene 0 is always there."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.6, 2.0, size=N_GENES)
    depth = np.geomspace(0.2, 8.0, n_cells)
    x = rng.poisson(np.outer(depth, rate)).astype(np.float32)
    x[:, 0] += 1
    return x


def _randomise(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1 or "norm" in name.lower():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def write_geneformer(folder: Path, version: str, seed: int = 0):
    """V1 as ``.bin`` with pickles of numpy numbers, V2 as safetensors with pickles; returns transformers' own model."""
    from transformers import BertConfig, BertForMaskedLM

    special = ["<pad>", "<mask>"] + (["<cls>", "<eos>"] if version == "v2" else [])
    tokens = {name: at for at, name in enumerate([*special, *ENSEMBL])}
    config = {
        "architectures": ["BertForMaskedLM"], "model_type": "bert", "hidden_act": "relu", "hidden_size": D,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 2 * D,
        "max_position_embeddings": POSITIONS, "type_vocab_size": 2, "vocab_size": len(tokens), "pad_token_id": 0,
        "layer_norm_eps": 1e-12, "initializer_range": 0.02, "hidden_dropout_prob": 0.02,
        "attention_probs_dropout_prob": 0.02, "position_embedding_type": "absolute",
        "transformers_version": "4.6.0", "gradient_checkpointing": False,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertForMaskedLM(BertConfig(**config)).eval()
    _randomise(model, seed)
    for parameter in model.parameters():  # of the size that training gives, so that attention is not uniform
        if parameter.dim() == 2:
            parameter.data *= 6
    model.tie_weights()
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if version == "v1":
        state["bert.embeddings.position_ids"] = torch.arange(POSITIONS)[None]
        torch.save(state, folder / "pytorch_model.bin")
    else:
        tied = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
        save_file({name: t for name, t in state.items() if name not in tied}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    write_dictionaries(folder, version, tokens, seed)
    return model


def write_dictionaries(folder: Path, version: str, tokens: dict, seed: int = 0) -> None:
    suffix = "_gc30M" if version == "v1" else "_gc104M"
    whole, real = (np.int16, np.float64) if version == "v1" else (int, float)
    medians = np.random.default_rng(seed + 1).lognormal(1.0, 0.6, size=N_GENES)
    former = {f"ENSG9{i:010d}": gene for i, gene in enumerate(ENSEMBL[:5])}
    dictionaries = {
        "token_dictionary": {k: (v if k.startswith("<") else whole(v)) for k, v in tokens.items()},
        "gene_median_dictionary": {gene: real(m) for gene, m in zip(ENSEMBL, medians, strict=True)},
        "gene_name_id_dict": dict(zip(SYMBOLS, ENSEMBL, strict=True)),
        "ensembl_mapping_dict": {**dict(zip(ENSEMBL, ENSEMBL, strict=True)), **former},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in dictionaries.items():
        (folder / f"{name}{suffix}.pkl").write_bytes(pickle.dumps(content, protocol=4))


def read_pickle(path: Path):
    return pickle.loads(path.read_bytes())


class Reference(nn.Module):
    """scGPT's encoder in torch's own modules, which have the published names of tensors."""

    def __init__(self, n_tokens: int, d_hidden: int = 48) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"embedding": nn.Embedding(n_tokens, D), "enc_norm": nn.LayerNorm(D)})
        self.value_encoder = nn.ModuleDict(
            {"linear1": nn.Linear(1, D), "linear2": nn.Linear(D, D), "norm": nn.LayerNorm(D)}
        )
        layer = nn.TransformerEncoderLayer(D, HEADS, d_hidden, dropout=0.2, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def hidden_states(self, ids: torch.Tensor, values: torch.Tensor, keep: torch.Tensor) -> list[torch.Tensor]:
        value = self.value_encoder
        embedded = value["linear2"](torch.relu(value["linear1"](values.unsqueeze(-1).clamp(max=512))))
        h = self.encoder["enc_norm"](self.encoder["embedding"](ids)) + value["norm"](embedded)
        states = [h]
        for layer in self.transformer_encoder.layers:
            h = layer(h, src_key_padding_mask=~keep)
            states.append(h)
        return states


def write_scgpt(folder: Path, spelling: str = "flash", args: bool = True, seed: int = 0) -> Reference:
    """``spelling`` is ``flash`` (Wqkv), ``native`` (in_proj) or ``wrapped`` (_impl.Wqkv)."""
    vocab = {name: at for at, name in enumerate([*SYMBOLS, "<pad>", "<cls>", "<eoc>"])}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Reference(len(vocab)).eval()
        for layer in model.transformer_encoder.layers:  # torch starts all of them alike
            for parameter in layer.parameters():
                parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape)
        heads = {
            "decoder.fc.0.weight": torch.randn(D, D),
            "mvc_decoder.W.weight": torch.randn(D, D),
            "flag_encoder.weight": torch.randn(2, D),
        }
    _randomise(model, seed)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()} | heads
    infix = {"native": None, "flash": "", "wrapped": "_impl."}[spelling]
    if infix is not None:
        state = {
            name.replace("self_attn.in_proj_", f"self_attn.{infix}Wqkv.").replace(
                "self_attn.out_proj.", f"self_attn.{infix}out_proj."
            ): tensor
            for name, tensor in state.items()
        }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "best_model.pt")
    (folder / "vocab.json").write_text(json.dumps(vocab))
    if args:
        content = {
            "embsize": D, "nheads": HEADS, "d_hid": 48, "nlayers": LAYERS, "n_layers_cls": 3, "dropout": 0.2,
            "pad_token": "<pad>", "pad_value": -2, "mask_value": -1, "n_bins": 51, "max_seq_len": 1200,
            "input_style": "binned", "input_emb_style": "continuous", "MVC": True, "fast_transformer": True,
            "lr": 1e-4, "save_dir": "/somewhere", "mask_ratio": [0.25, 0.5, 0.75],
        }  # fmt: skip
        (folder / "args.json").write_text(json.dumps(content))
    return model


def write_pointer(path: Path) -> None:
    """What git leaves in place of a large file where git-lfs is missing."""
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 41177234\n")
