"""The pictures of README.md and the documentation, by the model that travels with glczoo.

    python model_cards/pictures/draw.py     # Chromium and playwright draw the page

`map.png`: truth beside prediction for the species whose true map varies most. `app.png`: the page of
`glczoo app sample` as it opens.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from matplotlib.figure import Figure
from playwright.sync_api import sync_playwright

from glczoo.figures.style import SEQUENTIAL
from glczoo.packaged import sample
from glczoo.prediction.app import serve
from glczoo.prediction.map import make_map

HERE = Path(__file__).parent
SHOWN = (1180, 1020)  # pixels of the page


def draw_map(path: Path) -> None:
    """One species: what the world does, what the model says, and where the two differ."""
    with rasterio.open(sample("region") / "truth/probabilities.tif") as file:
        values, bounds, cell = file.read() / 255, file.bounds, file.res[0]
        band = values.std(axis=(1, 2)).argmax()  # the prediction has no say in the choice
        name, true = file.descriptions[band], values[band]
    with tempfile.TemporaryDirectory() as folder:
        drawn = make_map(
            ["sample"], Path(folder) / "map", bbox=bounds, resolution=cell, species=[name], masked=False
        )
        with rasterio.open(drawn.file) as file:
            predicted = file.read(1)
    r = np.corrcoef(true.ravel(), predicted.ravel())[0, 1]
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    extent = (bounds.left, bounds.right, bounds.bottom, bounds.top)
    aspect = 1 / np.cos(np.radians((bounds.bottom + bounds.top) / 2))
    titles = ("Truth", f"Predicted (r = {r:.2f})")
    for axis, shown, title in zip(axes, (true, predicted), titles, strict=True):
        image = axis.imshow(shown, vmin=0, vmax=1, cmap=SEQUENTIAL, extent=extent, aspect=aspect)
        axis.set(title=title, xlabel="° E")
    axes[0].set_ylabel("° N")
    figure.suptitle(f"{name}, an invented species", style="italic")
    figure.colorbar(image, ax=axes, label="probability that a survey finds it", shrink=0.9)
    figure.savefig(path, dpi=110)


def draw_app(path: Path) -> None:
    """The web page as it opens."""
    page = serve(["sample"], block=False)
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            tab = browser.new_page(viewport={"width": SHOWN[0], "height": SHOWN[1]})
            tab.goto(page.local_url)
            tab.wait_for_selector("#species table")
            tab.wait_for_timeout(1500)  # for its pictures
            tab.screenshot(path=path)
            browser.close()
    finally:
        page.close()


if __name__ == "__main__":
    draw_map(HERE / "map.png")
    draw_app(HERE / "app.png")
