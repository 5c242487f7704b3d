"""Okabe & Ito (2008): eight colours that stay apart under colour blindness; further categories change the marker."""

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000")
MARKERS = ("o", "^", "s", "X", "D", "v", "P", "*")
MISSING = "#D3D3D3"


def style(position: int) -> tuple[str, str]:
    """Return colour and marker of the category at a position; they repeat after 64."""
    return COLORS[position % len(COLORS)], MARKERS[position // len(COLORS) % len(MARKERS)]
