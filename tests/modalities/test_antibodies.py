"""Antibodies to genes: names as real panels write them."""

import numpy as np
import pytest

from more_scvi.modalities import _antibodies
from more_scvi.modalities._antibodies import match_antibodies


def genes(name, species="human", known=None):
    match = match_antibodies([name], species, known)
    return " ".join(sorted(match.genes))


PBMC = {
    "CD3_ADT": "CD3D CD3E CD3G",
    "CD4_ADT": "CD4",
    "CD8a_ADT": "CD8A",
    "CD14_ADT": "CD14",
    "CD19_ADT": "CD19",
    "CD56_ADT": "NCAM1",
    "CD127_ADT": "IL7R",
}
HAO = {
    "cd39_ADT": "ENTPD1",
    "cd62p_ADT": "SELP",
    "tcrab_ADT": "TRAC TRBC1 TRBC2",
    "tcr.v.7.2_ADT": "TRAV1-2",
    "siglec.8_ADT": "SIGLEC8",
    "vegfr3_ADT": "FLT4",
    "cd4.2_ADT": "CD4",
    "cd3.1_ADT": "CD3D CD3E CD3G",
    "cd31_ADT": "PECAM1",
    "cd45.1_ADT": "PTPRC",
    "cd45rb_ADT": "PTPRC",
    "cd11b.1_ADT": "ITGAM",
    "cd11a.cd18_ADT": "ITGAL ITGB2",
    "cd66a.c.e_ADT": "CEACAM1 CEACAM5 CEACAM6",
    "lox.1_ADT": "OLR1",
    "cd158e1_ADT": "KIR3DL1",
    "hla.dr_ADT": "HLA-DRA HLA-DRB1",
    "integrin.7_ADT": "ITGB7",
    "cd307c.fcrl3_ADT": "FCRL3",
    "gp130_ADT": "IL6ST",
    "b7.h4_ADT": "VTCN1",
}
SLN = {
    "CD115(CSF-1R)_ADT": "Csf1r",
    "CD122(IL-2Rb)_ADT": "Il2rb",
    "CD16-32_ADT": "Fcgr2b Fcgr3",
    "CD15(SSEA-1)_ADT": "Fut4",
    "CD21-CD35(CR2-CR1)_ADT": "Cr2",
    "CD24_ADT": "Cd24a",
    "CD274(B7-H1_PD-L1)_ADT": "Cd274",
    "CD301b(MGL2)_ADT": "Mgl2",
    "CD45.2_ADT": "Ptprc",
    "CD45R-B220_ADT": "Ptprc",
    "CD8b(Ly-3)_ADT": "Cd8b1",
    "CD90.1(Thy-1.1)_ADT": "Thy1",
    "F4-80_ADT": "Adgre1",
    "FolateReceptorb(FR-b)_ADT": "Folr2",
    "I-A-I-E_ADT": "H2-Aa H2-Ab1 H2-Eb1",
    "Ly-6A-E(Sca-1)_ADT": "Ly6a Ly6e",
    "Ly-6C_ADT": "Ly6c1 Ly6c2",
    "NK-1.1_ADT": "Klrb1c",
    "TCRbchain_ADT": "Trbc1 Trbc2",
    "anti-P2RY12_ADT": "P2ry12",
    "SiglecH_ADT": "Siglech",
}


@pytest.mark.parametrize(("panel", "species"), [(PBMC, "human"), (HAO, "human"), (SLN, "mouse")])
def test_real_panels(panel, species):
    assert {name: genes(name, species) for name in panel} == panel
    match = match_antibodies(list(panel), species)
    assert match.n_matched == len(panel) and not match.unmatched and not match.controls
    assert np.asarray(match.matrix.sum(1)).ravel() == pytest.approx(np.ones(len(panel)))
    assert match.matrix.shape == (len(panel), len(match.genes)) and len(set(match.genes)) == len(match.genes)


@pytest.mark.parametrize(
    "name",
    """CD4 cd4 CD4_ADT CD4-ADT CD4.ADT CD4_PROT CD4_TotalSeqB CD4-TotalSeq-C CD4_TotalA CD4.1 CD4-2 CD4_RPA-T4
    ADT_CD4 ADT-CD4 prot:CD4 anti-human|CD4 anti-CD4 anti-human/mouse-CD4 Hu.CD4 HuMs.CD4 HuMsRt.CD4 Hu.CD4_RPA.T4
    Ms.CD4 human_CD4 A0072-CD4 CD4-TGTTCCCGCTCAACT CD4|(RPA-T4) CD4|(L3T4)""".split(),
)
def test_what_panels_add_to_a_name(name):
    assert genes(name.replace("|", " ")) == "CD4"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CD3.1", "CD3D CD3E CD3G"),
        ("CD31", "PECAM1"),
        ("CD1.1", "CD1D"),
        ("CD11", ""),
        ("CD11a", "ITGAL"),
        ("CD1a.1", "CD1A"),
        ("CD8", "CD8A CD8B"),
        ("CD158b", "KIR2DL2 KIR2DL3 KIR2DS2"),
        ("PD-1", "PDCD1"),
        ("CD279 (PD-1)", "PDCD1"),
        ("PD-1 (CD279)", "PDCD1"),
        ("BDCA-1", "CD1C"),
        ("TCR α/β", "TRAC TRBC1 TRBC2"),
        ("TCR-alpha-beta", "TRAC TRBC1 TRBC2"),
        ("HLA-DR", "HLA-DRA HLA-DRB1"),
        ("IgM", "IGHM"),
        ("IgG Fc", "IGHG1 IGHG2 IGHG3 IGHG4"),
        ("MS4A1", "MS4A1"),
        ("SSEA-4", ""),
        ("no such thing", ""),
        ("", ""),
    ],
)
def test_names_that_are_easily_confused(name, expected):
    assert genes(name) == expected


CONTROLS = [
    "IgG1",
    "Mouse IgG2b, κ isotype Ctrl",
    "IgG1_control_TotalSeqB",
    "rat-IgG2a",
    "Isotype_MOPC.21",
    "Ms.IgG2b",
    "Hashtag1",
    "anti-human Hashtag 3",
    "HTO_3",
    "HTO4",
]


def test_controls_have_no_gene():
    match = match_antibodies([*CONTROLS, "CD4", "what"])
    assert match.controls == tuple(CONTROLS) and match.unmatched == ("what",)
    assert np.diff(match.matrix.indptr).tolist() == [0] * len(CONTROLS) + [1, 0]


def test_several_antibodies_of_one_gene_share_its_column():
    match = match_antibodies(["CD45RA", "CD8", "CD45RO"])
    assert match.genes.tolist() == ["PTPRC", "CD8A", "CD8B"]
    assert match.matrix.toarray().tolist() == [[1, 0, 0], [0, 0.5, 0.5], [1, 0, 0]]


def test_a_name_that_is_a_measured_gene_maps_to_it():
    assert genes("Gprc5a_ADT", "mouse") == ""
    assert genes("Gprc5a_ADT", "mouse", ["Gprc5a", "Cd4"]) == "Gprc5a"
    assert genes("gprc5a", "human", ["GPRC5A"]) == "GPRC5A"
    assert genes("CD20", "human", ["CD20"]) == "MS4A1", "the table comes first"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (None, "human"),
        ([], "human"),
        (["CD3E", "MS4A1", "C1orf112", "AC004.1"], "human"),
        (["Cd3e", "Ms4a1", "Kit", "H2-Aa", "GM123"], "mouse"),
        (["ENSMUSG00000000001", "ENSMUSG00000000028"], "mouse"),
        (["ENSG00000000003"], "human"),
    ],
)
def test_species_is_that_of_the_genes(known, expected):
    assert match_antibodies(["CD3"], known_genes=known).species == expected
    assert match_antibodies(["CD3"], "mouse", known).species == "mouse"


def test_what_is_refused():
    with pytest.raises(TypeError, match="single string"):
        match_antibodies("CD3")
    with pytest.raises(TypeError, match="known_genes"):
        match_antibodies(["CD3"], known_genes="CD3E")
    with pytest.raises(ValueError, match="choose one of"):
        match_antibodies(["CD3"], "rat")


def test_the_table_gives_every_name_one_meaning():
    text = _antibodies.files("more_scvi.modalities").joinpath("antibodies.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")][1:]
    assert len(rows) > 300 and {len(r) for r in rows} == {4}
    meaning = {}
    for antibody, _, _, aliases in rows:
        for name in [antibody, *filter(None, aliases.split(";"))]:
            key = _antibodies._key(name)
            assert key and meaning.setdefault(key, antibody) == antibody, name
