"""The page: what it answers is what `glczoo predict` answers, and a browser can use it without a network."""

import csv
import io
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import yaml
from matplotlib.image import imread

from glczoo.cli import main
from glczoo.data.region import Region
from glczoo.data.tables import read_points
from glczoo.errors import GlczooError
from glczoo.hub.publish import push
from glczoo.prediction import app, place
from glczoo.prediction.place import PlacePredictor, read_place

RECIPES = Path(__file__).parents[2] / "recipes"
SPACE = Path(__file__).parents[2] / "model_cards" / "space"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def runs(trained_run):
    """A run that sees the climate, and one that sees all modalities."""
    decoding = "{rule: expected_size, value: 0.5}"
    models = ("test_bioresnet_glc23", "test_fusresnet_glc23")
    return [trained_run("step1", model=model, decoding=decoding) for model in models]


@pytest.fixture(scope="module")
def climate(runs):
    return PlacePredictor(runs[:1])


@pytest.fixture(scope="module")
def everything(runs):
    return PlacePredictor(runs[1:])


def predicted(run: Path, folder: Path, point: str, head: str = "lon,lat") -> list[tuple[str, str, str]]:
    """speciesId, probability and whether it is in the set, as `glczoo predict` writes them."""
    (folder / "point.csv").write_text(f"{head}\n{point}\n")
    out = folder / "predicted.csv"
    main(["predict", str(run), "--points", str(folder / "point.csv"), "--top", "15", "--out", str(out)])
    with open(out) as file:
        return [(row["speciesId"], row["probability"], row["in_set"]) for row in csv.DictReader(file)]


def test_a_place_is_answered_as_predict_answers(climate, runs, tmp_path):
    told = climate.at(5.2, 46.8)
    columns = told.answers.columns
    rows = predicted(runs[0], tmp_path, "5.2,46.8")
    assert [row[0] for row in rows] == [str(i) for i in columns["speciesId"]] and len(rows) >= 15
    assert [float(row[1]) for row in rows] == pytest.approx(columns["probability"].tolist(), rel=1e-5)
    assert [row[2] for row in rows] == [str(i) for i in columns["in_set"]]
    assert (told.place.lon[0], told.place.lat[0], told.place.patch_id[0]) == (5.2, 46.8, -1)
    html = app.species_html(told)
    assert re.findall(r'class="(\w+)" data-species="(\d+)"', html) == [
        ("in" if chosen == "1" else "out", number) for number, _, chosen in rows
    ]
    assert f"<h2>{sum(row[2] == '1' for row in rows)} species" in html


def test_satellite_is_asked_at_the_nearest_known_point(everything, runs, tmp_path):
    places = everything.places
    lon, lat = places.lon[7] + 1e-4, places.lat[7]
    told = everything.at(lon, lat)
    assert told.place.patch_id[0] == places.patch_id[7] and told.place.lon[0] == places.lon[7]
    assert f"0.0 km away (lon {places.lon[7]:.5f}" in told.notes[0]
    assert len(everything.at(places.lon[7], places.lat[7]).notes) == len(told.notes) - 1
    point = f"{places.lon[7]},{places.lat[7]},{places.patch_id[7]}"
    rows = predicted(runs[1], tmp_path, point, "lon,lat,patchID")
    assert [int(row[0]) for row in rows] == told.answers.columns["speciesId"].tolist()
    everything.places, kept = places.at(np.arange(0)), places
    try:
        with pytest.raises(ValueError, match="belongs to known samples.*upload a table.*with a patchID"):
            everything.at(lon, lat)
    finally:
        everything.places = kept


def test_the_patches_are_what_the_model_saw(everything, world):
    told = everything.at(5.2, 46.8)
    names = [patch.name for patch in told.patches]
    bands = Region.load(world).band_names
    assert names == [*bands[:28], "red, green, blue", "nir", "hfp2009"]
    source, patch = everything.source, told.patches[28]
    stored = source.jpegs.read(int(told.place.patch_id[0]), 16).numpy().transpose(1, 2, 0)[..., :3]
    drawn = imread(io.BytesIO(patch.picture))[..., :3] * 255
    assert drawn.shape == (16, 16, 3) and np.abs(drawn - stored).max() <= 1
    value = source.values(told.place)[0, 0]
    assert told.patches[0].text.startswith(f"{value:.5g} [0.1 K]")
    assert told.patches[0].modality == "bioclim · 16 × 16 cells of 30 arc seconds (about 1 km)"
    assert app.patches_html(told.patches, "m").count("<figure") == len(names)


def test_it_warns_where_the_place_is_unlike_the_training_surveys(climate, monkeypatch):
    at = climate.places.lon[0], climate.places.lat[0]
    told = climate.at(*at)
    assert told.applicable is True and "is like that of the training samples" in told.notes[-1]
    assert "note good" in app.species_html(told) and "Careful" not in app.species_html(told)
    monkeypatch.setattr(climate.applicability, "threshold", -1.0)
    told = climate.at(*at)
    assert told.applicable is False and "unlike that of any training sample" in told.notes[-1]
    assert '<p class="note bad"><b>Careful.</b>' in app.species_html(told)
    monkeypatch.setattr(climate, "applicability", None)
    monkeypatch.setattr(climate, "unmeasured", "no <table>")
    told = climate.at(*at)
    assert told.applicable is None and "Not compared with the training samples: no &lt;table&gt;" in (
        app.species_html(told)
    )


def test_a_region_without_tables_still_answers(runs, world, tmp_path):
    """As on a Space that has the rasters alone."""
    for name in ("EnvironmentalRasters", "SatelliteImages"):
        (tmp_path / name).symlink_to(world / name)
    shutil.copy(world / "region.yaml", tmp_path)
    guide = PlacePredictor(runs[:1], Region.load(tmp_path))
    assert not len(guide.places) and guide.map.extent == pytest.approx((5, 5 + 64 / 120, 47 - 64 / 120, 47))
    assert guide.at(5.2, 46.8).answers.columns["speciesId"].tolist() == (
        PlacePredictor(runs[:1]).at(5.2, 46.8).answers.columns["speciesId"].tolist()
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no place: give longitude and latitude in degrees, such as 6.52, 46.91"),
        ("Geneva", "'Geneva' is no place"),
        ("6,52 46,91", "is no place"),
        ("nan 3", r"lon nan, lat 3 is no place on Earth"),
        ("46, 106", r"lat in \[-90, 90\]: are the two exchanged\? lon comes first"),
        (
            "5.2, 48",
            "lat 48.00000: outside the grid of bio1 … bio19. The rasters reach from lon 5.000",
        ),
        ("46.8; 5.2", "With lon and lat exchanged the place would lie there: lon comes first"),
    ],
)
def test_bad_places(climate, text, message):
    with pytest.raises(ValueError, match=message):
        climate.at(*read_place(text))


def test_places_as_people_paste_them():
    assert read_place(" 5.2, 46.8 ") == read_place("5.2;46.8") == read_place("5.2\t46.8") == (5.2, 46.8)


def test_tables_as_predict_writes_them(climate, runs, tmp_path):
    points = tmp_path / "points.csv"
    points.write_text("Id,lon,lat\n3,5.2,46.8\n4,5.3,46.7\n5,9,46.7\n")
    told = climate.table(points, tmp_path / "ours.csv")
    main(["predict", str(runs[0]), "--points", str(points), "--out", str(tmp_path / "theirs.csv")])
    for name in ("{}.csv", "{}.left_out.csv"):
        ours, theirs = (tmp_path / name.format(who) for who in ("ours", "theirs"))
        assert ours.read_bytes() == theirs.read_bytes()
    assert "2 points answered" in app.table_html(told) and "<li>1 outside the grid" in app.table_html(told)
    for content, message in (
        (b"a,b\n1,2\n", r"^points.csv: no column looks like longitude or latitude; it has \['a', 'b'\]"),
        (b"", "^points.csv is empty"),
        (b"lon,lat\n\xff,3\n", "^points.csv: of 1 rows 1 with coordinates that are no numbers"),
        (b"lon,lat\n9,46.7\n", "none of 1 points can be answered: 1 outside the grid"),
        (b"lon,lat\n", "^points.csv has a header and no rows"),
    ):
        points.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            climate.table(points, tmp_path / "none.csv")
    assert [path.name for path in tmp_path.glob("*none*")] == ["none.left_out.csv"]


def test_without_gradio_the_message_says_how_to_get_it(runs, climate, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(app, "PlacePredictor", lambda *_: climate)
    with pytest.raises(SystemExit, match=r"needs Gradio: pip install 'glczoo\[app\]'"):
        main(["app", str(runs[0])])


def test_the_server_is_local_and_a_port_that_is_taken_is_told(runs, climate, monkeypatch):
    made = MagicMock()
    made.launch.side_effect = OSError("Cannot find empty port in range: 7860-7860")
    monkeypatch.setitem(sys.modules, "gradio", MagicMock())  # its own import takes seconds
    monkeypatch.setattr(app, "PlacePredictor", lambda *_: climate)
    monkeypatch.setattr(app, "page", lambda _: made)
    with pytest.raises(SystemExit, match="served: Cannot find empty port.*; name another: --port, --host"):
        main(["app", str(runs[0]), "--port", "7860"])
    told = made.launch.call_args.kwargs
    assert (told["server_name"], told["server_port"]) == ("127.0.0.1", 7860)
    assert told["share"] is False and told["run_history"] is False


# The command, in a process that may not look up the name of another machine.
SERVER = """
import socket, sys
look_up = socket.getaddrinfo
def local(host, *args, **kwargs):
    if host not in (None, "127.0.0.1", "localhost"):
        print("STRANGER", host, flush=True)
    return look_up(host, *args, **kwargs)
socket.getaddrinfo = local
import torch
from glczoo.cli import main
torch.set_num_threads(1)
main(sys.argv[1:])
"""


def test_in_a_browser(runs, world, tmp_path):
    """Click, paste, upload and download; nothing is asked of another machine."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path / "gradio")}
    command = [sys.executable, "-c", SERVER, "app", str(runs[1]), "--port", str(port)]
    with open(tmp_path / "log", "w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            address, requests = f"http://127.0.0.1:{port}", []
            wait_for(lambda: address in (tmp_path / "log").read_text() or server.poll() is not None)
            assert server.poll() is None, (tmp_path / "log").read_text()
            with playwright.sync_playwright() as play:
                browser = play.chromium.launch_persistent_context(
                    tmp_path / "profile", executable_path=CHROMIUM, args=FLAGS.split(),
                    viewport={"width": 1300, "height": 900},
                )  # fmt: skip
                page = browser.new_page()
                page.on("request", lambda request: requests.append(request.url))
                use(page, address, runs[1], world, tmp_path)
                browser.close()
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
    said = (tmp_path / "log").read_text()
    assert "predicts by test_fusresnet_glc23/step1" in said
    assert "STRANGER" not in said and "Traceback" not in said
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []


def wait_for(happened: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.1)


def use(page, address: str, run: Path, world: Path, folder: Path) -> None:
    guide = PlacePredictor([run])
    page.goto(address)
    picture = page.locator("#map img")
    # The element is there before its picture is: until then it has no width to click at.
    page.wait_for_function(
        "() => document.querySelector('#map img')?.complete && "
        "document.querySelector('#map img').clientWidth > 50",
        timeout=60_000,
    )
    box = picture.bounding_box()
    drawn = guide.map.pixels.shape[1]
    assert box["width"] < drawn  # Gradio counts wrong in a picture that is magnified

    lon, lat = guide.places.lon[5], guide.places.lat[5]
    x, y = (v * box["width"] / drawn for v in guide.map.pixel(lon, lat))
    answer, (middle, _) = page.locator("#species"), guide.middle
    page.wait_for_function(
        "want => document.querySelector('#species').innerText.includes(want)",
        arg=f"at lon {middle:.5f}",
        timeout=60_000,
    )  # before anybody has clicked
    end = time.monotonic() + 60
    while f"at lon {lon:.5f}" not in answer.inner_text() and time.monotonic() < end:  # not ready: no click
        picture.click(position={"x": x, "y": y})
        page.wait_for_timeout(2000)
    typed = page.locator("#place textarea, #place input").first
    west, east, _, _ = guide.map.extent
    pixel = (east - west) / box["width"]
    assert read_place(typed.input_value()) == pytest.approx((lon, lat), abs=1.5 * pixel)
    note = page.locator("#species .note").first.inner_text()
    patch = int(re.search(r"patch (\d+)", note)[1])
    assert patch == guide.places.patch_id[5]
    assert species(page) == predicted_species(run, folder, guide, 5)
    assert page.locator("#patches figure").count() == 31
    shots = Path(os.environ.get("GLCZOO_SCREENSHOTS", folder))
    page.screenshot(path=shots / "app.png", full_page=True)

    typed.fill(f"{guide.places.lon[9]}, {guide.places.lat[9]}")
    typed.press("Enter")
    page.wait_for_function("want => document.querySelector('#species').innerText.includes(want)",
                           arg=f"at lon {guide.places.lon[9]:.5f}")  # fmt: skip
    assert species(page) == predicted_species(run, folder, guide, 9)
    typed.fill("somewhere")
    typed.press("Enter")
    page.locator("#species [role=alert]").wait_for()
    assert "'somewhere' is no place" in page.locator("#species").inner_text()
    assert page.locator("#patches figure").count() == 0

    region = Region.load(world)
    table = region.find(*region.table("test").file)
    points = read_points(region, table, region.table("test"))
    lines = [f"{points.patch_id[i]},{points.lon[i]},{points.lat[i]}" for i in range(6)]
    (folder / "many.csv").write_text("\n".join(["patchID,lon,lat", *lines, "1,9,47"]) + "\n")
    page.locator("#points input[type=file]").set_input_files(folder / "many.csv")
    page.locator("#files a").first.wait_for()
    assert "6 points answered" in page.locator("#said").inner_text()
    got = {}
    for link in page.locator("#files a[download]").all():
        with page.expect_download() as waiting:
            link.click()
        got[waiting.value.suggested_filename] = Path(waiting.value.path()).read_bytes()
    main(["predict", str(run), "--points", str(folder / "many.csv"), "--out", str(folder / "species.csv")])
    assert got == {name: (folder / name).read_bytes() for name in ("species.csv", "species.left_out.csv")}


def species(page) -> list[tuple[str, bool]]:
    """speciesId of the rows of the page, and whether they are in the set."""
    return [
        (row.get_attribute("data-species"), row.get_attribute("class") == "in")
        for row in page.locator("#species tr[data-species]").all()
    ]


def predicted_species(run: Path, folder: Path, guide: PlacePredictor, i: int) -> list[tuple[str, bool]]:
    point = f"{guide.places.lon[i]},{guide.places.lat[i]},{guide.places.patch_id[i]}"
    return [(number, chosen == "1") for number, _, chosen in predicted(run, folder, point, "lon,lat,patchID")]


def test_the_space_is_the_same_page_for_a_model_of_the_hub(runs, world, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "write")
    push(runs[0], "me/plants")
    asked = []
    monkeypatch.setattr(app, "serve", lambda models: asked.append(PlacePredictor(models)))
    monkeypatch.setenv("GLCZOO_MODEL", "hf-hub:me/plants")
    monkeypatch.setenv("GLCZOO_DATA", str(world))
    runpy.run_path(str(SPACE / "app.py"))
    (guide,) = asked
    there, here = (each.at(5.2, 46.8) for each in (guide, PlacePredictor(runs[:1])))
    assert there.answers.columns["speciesId"].tolist() == here.answers.columns["speciesId"].tolist()
    assert there.applicable is not None and there.applicable == here.applicable
    _, header, _ = (SPACE / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(header)
    assert (told["sdk"], (SPACE / told["app_file"]).is_file()) == ("gradio", True)
    constraints = (SPACE.parent.parent / "constraints.txt").read_text().splitlines()
    assert f"gradio=={told['sdk_version']}" in constraints
    assert (SPACE / "requirements.txt").read_text() == "glczoo[app]\n"


def test_an_uploaded_table_of_too_many_rows_is_refused_before_it_is_read(climate, tmp_path, monkeypatch):
    monkeypatch.setattr(place, "_MOST_POINTS", 3)
    table = tmp_path / "points.csv"
    table.write_text("lon,lat\n" + "5.2,46.8\n" * 3)
    assert climate.table(table, tmp_path / "out.csv").points == 3
    table.write_text("lon,lat\n" + "5.2,46.8\n" * 4)
    with pytest.raises(GlczooError, match="the table has 4 rows, this page answers 3 at once: cut it up"):
        climate.table(table, tmp_path / "out.csv")
    table.write_text("lon,lat\n" + "5.2,46.8\n" * 9)
    monkeypatch.setattr(place, "read_points", None)
    with pytest.raises(GlczooError, match="this page answers 3 at once"):
        climate.table(table, tmp_path / "out.csv")


def test_an_upload_that_unpacks_to_gigabytes_is_refused(climate, tmp_path, monkeypatch):
    monkeypatch.setattr(place, "_MOST_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "points.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("points.csv", "lon,lat\n" + "5.2,46.8\n" * 200)
    with pytest.raises(GlczooError, match=r"^points.zip unpacks to 1,808 bytes, this page reads 1,000"):
        climate.table(tmp_path / "points.zip", tmp_path / "out.csv")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Gradio's own loop
def test_a_click_does_not_wait_for_an_upload(climate):
    blocks = app.page(climate)
    lines = {fn.name: (fn.concurrency_id, fn.concurrency_limit) for fn in blocks.fns.values()}
    assert lines["uploaded"] == ("tables", 1)
    assert lines["clicked"] == lines["pasted"] == ("places", 1)
