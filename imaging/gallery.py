# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The pictures and tables that show how images were segmented."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from imaging import drawing
from imaging.reader import write_image
from runtime import names
from runtime.files import atomic_write

SHEET_IMAGES = 24  # on the contact sheet, spread over all images


class Gallery:
    """Writes each image's pictures under `folder`, counts its nuclei, and collects the contact sheet.

    The threads of a pool do the work. Its results are complete, and its errors raised, at the pool's end.
    """

    def __init__(self, folder: Path, total: int, threshold: float, pool):
        """threshold: of nucleus pixels. pool: a BackgroundPool."""
        self.folder, self.threshold, self.pool = folder, threshold, pool
        self.on_sheet = set(np.linspace(0, total - 1, min(total, SHEET_IMAGES)).round().astype(int).tolist())
        self.futures = []

    @property
    def added(self) -> int:
        return len(self.futures)

    def add(self, name: str, path: Path, image: np.ndarray, probability: np.ndarray, truth: np.ndarray = ()) -> None:
        """Add an image, uint8 BGR (H, W, 3), its probabilities (C, h, w), and true masks, boolean (C, H, W).

        name: of its pictures. path: of its file, for the table.
        """
        on_sheet = self.added in self.on_sheet
        self.futures.append(self.pool.submit(self._paint, name, path, image, probability, truth, on_sheet))

    def _paint(
        self, name: str, path: Path, image: np.ndarray, probability: np.ndarray, truth: np.ndarray, on_sheet: bool
    ) -> tuple[list[dict], list[np.ndarray] | None]:
        drawing.write_probabilities(self.folder, name, probability)
        masks, rows = [drawing.to_mask(channel, *image.shape[:2], self.threshold) for channel in probability], []
        for k, mask in enumerate(masks):
            self.pool.check_cancelled()
            write_image(self.folder / str(k) / f"{name}_mask.png", mask.astype(np.uint8) * 255)
            nuclei = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1
            row = {"id": name, "path": names.printable_path(path), "class": k, "nuclei": nuclei}
            rows.append(row | {"covered_share": round(float(mask.mean()), 4)})
        self.pool.check_cancelled()
        shown = drawing.brighten(image)
        write_image(self.folder / "overlay" / f"{name}.png", drawing.overlay(shown, masks, truth))
        return rows, self._strip(shown, probability, masks, truth) if on_sheet else None

    @staticmethod
    def _strip(
        image: np.ndarray, probability: np.ndarray, masks: list[np.ndarray], truth: list[np.ndarray]
    ) -> list[np.ndarray]:
        """Return an image's row on the sheet, at the sheet's size: originals of many megapixels would add up."""
        highest = cv2.resize(probability.max(0), image.shape[1::-1])
        masks, truth = ([drawing.fit(mask.astype(np.uint8) * 255) for mask in group] for group in (masks, truth))
        # outlines are drawn last, so that they stay thin on small images and visible on large ones
        outlined = drawing.overlay(
            drawing.fit(image), [m[..., 0] > 127 for m in masks], [t[..., 0] > 127 for t in truth]
        )
        return [drawing.fit(image), drawing.fit((highest * 255).astype(np.uint8)), np.max(masks, 0), outlined]

    def finish(self, outlines: str) -> None:
        """Write overview.png and nuclei.csv; call it after the pool's end. outlines: title of their column."""
        painted = [future.result() for future in self.futures]
        strips = [(rows[0]["id"], strip) for rows, strip in painted if strip]
        sheet = drawing.contact_sheet(strips, ["image", "probability", "mask", outlines])
        write_image(self.folder / "overview.png", sheet)
        with atomic_write(self.folder / "nuclei.csv") as partial:
            pd.DataFrame([row for rows, _ in painted for row in rows]).to_csv(partial, index=False)
