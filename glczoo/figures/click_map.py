"""A map to click: pixels, and the place that each of them stands for."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from glczoo.figures.style import NO_DATA, RED, Extent, thinned

__all__ = ["ClickMap"]

_SIDE = 1100  # pixels of a map to click: more than a page shows it with, so that none is magnified


class ClickMap:
    """A map to click: `pixels` uint8[H, W, 3], and which place a pixel stands for, exactly.

    A pixel (x, y) is counted from the top left corner of the picture, whole numbers between two pixels.
    """

    def __init__(
        self,
        values: np.ndarray,
        extent: Extent,
        places: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Draw the map.

        Args:
            values: float[h, w] of the background, north up, nan where there is no data.
            extent: of `values`.
            places: lon[n], lat[n] of dots.
        """
        west, east, south, north = self.extent = extent
        wide = float(np.cos(np.radians((south + north) / 2)) * (east - west) / (north - south))
        width, height = _SIDE * min(1.0, wide), _SIDE / max(1.0, wide)
        self._box = left, top, width, height = 110, 30, round(max(width, 300)), round(max(height, 300))
        across, up = left + width + 30, top + height + 80
        figure = Figure(figsize=(across / 200, up / 200), dpi=200)
        axis = figure.add_axes((left / across, 1 - (top + height) / up, width / across, height / up))
        axis.set_facecolor(NO_DATA)
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, (2, 98)) if len(known) else (0, 1)
        axis.imshow(
            values,
            extent=extent,
            vmin=low,
            vmax=high,
            alpha=np.where(np.isfinite(values), 0.75, 0.0),
            interpolation="nearest",
            aspect="auto",
        )
        seen = thinned(*places, extent)
        size = float(np.clip(3000 / max(len(seen), 1), 0.5, 8))
        edge = 0.3 if size > 2 else 0  # many would be nothing but edges
        axis.scatter(places[0][seen], places[1][seen], s=size, c="white", linewidths=edge, edgecolors="black")
        axis.set(xlim=(west, east), ylim=(south, north))
        axis.locator_params(nbins=6)
        axis.ticklabel_format(useOffset=False, style="plain")
        axis.tick_params(labelsize=7, length=2, pad=2)
        axis.set_xlabel("degrees east", fontsize=7, labelpad=2)
        axis.set_ylabel("degrees north", fontsize=7, labelpad=2)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        self.pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def place(self, x: float, y: float) -> tuple[float, float] | None:
        """lon, lat of a pixel; None in the margin. `x`, `y`: from the picture's upper left corner."""
        left, top, width, height = self._box
        across, down = (x - left) / width, (y - top) / height
        if not (0 <= across <= 1 and 0 <= down <= 1):
            return None
        west, east, south, north = self.extent
        return west + across * (east - west), north - down * (north - south)

    def pixel(self, lon: float, lat: float) -> tuple[float, float]:
        """The pixel of a place, which may lie off the picture."""
        left, top, width, height = self._box
        west, east, south, north = self.extent
        return left + (lon - west) / (east - west) * width, top + (north - lat) / (north - south) * height

    def marked(self, lon: float, lat: float) -> np.ndarray:
        """The map with a ring around a place, uint8[H, W, 3]."""
        pixels, (x, y) = self.pixels.copy(), self.pixel(lon, lat)
        down, across = np.ogrid[: len(pixels), : pixels.shape[1]]
        far = np.hypot(across + 0.5 - x, down + 0.5 - y)
        pixels[abs(far - 17) < 6] = 255
        pixels[abs(far - 17) < 4] = np.multiply(to_rgb(RED), 255).round()
        return pixels
