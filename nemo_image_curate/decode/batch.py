"""`DecodedBatch`: what comes out of a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from nemo_image_curate.decode.header import ImageHeader


@dataclass
class DecodedBatch:
    """Decoded images and a reason for each that failed; n given, m of them decoded.

    Attributes
    ----------
    pixels : torch.Tensor or None, shape (m, 3, S, S), float32
        Normalised, on the decoder's device; None where no model wants any.
    decoded : list of int, length m
        Which of the given images were decoded; rising.
    errors : list of str or None, length n
        None for an image that was decoded, else ``missing``, ``too large: ...`` or
        ``decode: ...``.
    headers : list of ImageHeader or None, length n
        What the files say; None where there is no readable header.
    thumbnails : dict of int to torch.Tensor, shape (m, 3, T, T), uint8
        For each side T that was asked for the whole image squashed to a square, for statistics
        and perceptual hashes.
    warnings : list of str or None, length n
        What is wrong with a file whose pixels are all there nevertheless.
    """

    pixels: torch.Tensor | None
    decoded: list[int]
    errors: list[str | None]
    headers: list[ImageHeader | None]
    thumbnails: dict[int, torch.Tensor]
    warnings: list[str | None]

    @classmethod
    def of(
        cls,
        pixels: torch.Tensor | None,
        errors: list[str | None],
        headers: Sequence[ImageHeader | None],
        thumbnails: dict[int, torch.Tensor],
        warnings: list[str | None] | None = None,
    ) -> DecodedBatch:
        """A batch from the rows that were decoded and what is known of every image."""
        return cls(
            pixels,
            [number for number, error in enumerate(errors) if error is None],
            errors,
            list(headers),
            thumbnails,
            [None] * len(errors) if warnings is None else warnings,
        )

    @property
    def widths(self) -> list[int | None]:
        """Of all n as decoded, before any resizing."""
        return [header and header.width for header in self.headers]

    @property
    def heights(self) -> list[int | None]:
        """Of all n as decoded, before any resizing."""
        return [header and header.height for header in self.headers]

    @property
    def formats(self) -> list[str | None]:
        """What the bytes of all n are, such as ``jpeg``."""
        return [header and header.format for header in self.headers]

    def to(self, device: torch.device) -> DecodedBatch:
        """The same batch with its tensors on a device."""
        if self.pixels is not None:
            self.pixels = self.pixels.to(device)
        self.thumbnails = {side: pixels.to(device) for side, pixels in self.thumbnails.items()}
        return self

    @classmethod
    def merge(cls, parts: Sequence[tuple[list[int], DecodedBatch]]) -> DecodedBatch:
        """One batch from parts.

        Parameters
        ----------
        parts : sequence of (positions, batch)
            For each image of a part, its position in the whole; together each position once.
        """
        import torch

        if len(parts) == 1:
            return parts[0][1]
        n = sum(len(positions) for positions, _ in parts)
        merged = cls(
            pixels=parts[0][1].pixels,
            decoded=[],
            errors=[None] * n,
            headers=[None] * n,
            thumbnails={},
            warnings=[None] * n,
        )
        rows: list[int] = []
        for positions, part in parts:
            rows += [positions[number] for number in part.decoded]
            for number, position in enumerate(positions):
                merged.errors[position] = part.errors[number]
                merged.headers[position] = part.headers[number]
                merged.warnings[position] = part.warnings[number]
        order = sorted(range(len(rows)), key=rows.__getitem__)
        merged.decoded = [rows[row] for row in order]
        pixels = [part.pixels for _, part in parts if part.pixels is not None]
        merged.pixels = torch.cat(pixels)[order] if pixels else None
        for side in parts[0][1].thumbnails:
            merged.thumbnails[side] = torch.cat([part.thumbnails[side] for _, part in parts])[order]
        return merged
