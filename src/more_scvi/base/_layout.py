"""Where each modality stands in arrays that hold all of them side by side."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Columns of the modalities.

    In the wide input, coordinates that modalities share through genes follow after those of all modalities.
    """

    modalities: tuple[str, ...]  # names, in order
    widths: tuple[int, ...]  # columns of each in the base
    wide_widths: tuple[int, ...]  # columns of each in the wide input

    @property
    def width(self) -> int:
        """Columns of the base."""
        return sum(self.widths)

    def at(self, modality: str) -> int:
        """Position of a modality."""
        return self.modalities.index(modality)

    def columns(self, modality: str) -> slice:
        """Columns of a modality in the base."""
        return _span(self.widths, self.at(modality))

    def wide_columns(self, modality: str) -> slice:
        """Columns of a modality in the wide input."""
        return _span(self.wide_widths, self.at(modality))


def _span(widths: tuple[int, ...], at: int) -> slice:
    return slice(sum(widths[:at]), sum(widths[: at + 1]))
