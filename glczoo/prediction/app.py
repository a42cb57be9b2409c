"""A web page: `glczoo app RUN`. Gradio's part of it; what it shows comes from `place`.

Nothing leaves the machine: no share link, no analytics, fonts that are served from here.
"""

import base64
import tempfile
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from glczoo.data.region import Region
from glczoo.errors import GlczooError
from glczoo.prediction.place import Patch, PlaceAnswer, PlacePredictor, read_place
from glczoo.prediction.points import PredictedTable

__all__ = ["page", "serve"]

_UPLOAD = "32mb"  # rows are counted too, see `place`
_CSS = """
.gradio-container {max-width: 1240px !important; margin: 0 auto}
#map img {cursor: crosshair; width: auto; max-width: 100%; max-height: 660px; margin: 0 auto}
.gz {color: var(--body-text-color)}
.html-container:has(> * > .gz) {padding: 0 !important}
.gz h2 {font-size: 1.15rem; margin: 0 0 .2rem}
.gz p {margin: .2rem 0}
.gz .quiet {color: var(--body-text-color-subdued); font-size: .85rem}
.gz .note {border-left: 4px solid #999; padding: .35rem .7rem; margin: .4rem 0; font-size: .9rem;
  background: var(--background-fill-secondary)}
.gz .good {border-color: #009E73} .gz .bad {border-color: #D55E00} .gz .bad b {color: #D55E00}
.gz table, .gz thead, .gz tbody, .gz tr {border: 0 !important}
.gz table {width: 100%; border-collapse: collapse; font-size: .95rem; margin: .4rem 0}
.gz th {text-align: left; font-weight: 600; font-size: .8rem; color: var(--body-text-color-subdued)}
.gz td, .gz th {padding: .2rem .5rem !important; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important}
.gz td:nth-child(1) {width: 1.5rem} .gz td:nth-child(3) {width: 45%}
.gz tr.out {color: var(--body-text-color-subdued)}
.gz .bar {display: inline-block; vertical-align: middle; height: .7rem; border-radius: 2px;
  background: #0072B2}
.gz tr.out .bar {background: #B8C4CE}
.gz .of {display: inline-block; width: calc(100% - 3.6rem)}
.gz .number {display: inline-block; width: 3.2rem; text-align: right; font-variant-numeric: tabular-nums}
.gz .sections {display: flex; flex-wrap: wrap; column-gap: 2.5rem}
.gz .patches {display: flex; flex-wrap: wrap; gap: .7rem; margin: .3rem 0 .9rem}
.gz figure {width: 92px; margin: 0; font-size: .72rem; line-height: 1.25}
.gz figure.wide {width: 196px}
.gz figure img {width: 100%; image-rendering: pixelated; border-radius: 3px; margin: 0}
.gz figcaption b {display: block; font-size: .8rem; overflow-wrap: anywhere}
"""

_QUEUE: dict[str, Any] = {"concurrency_limit": 1, "api_visibility": "private"}
_TABLES = [".csv", ".tsv", ".txt", ".gz", ".zip", ".xlsx", ".parquet", ".geojson", ".json", ".gpkg"]


def page(predictor: PlacePredictor) -> Any:
    """The page of a predictor, a `gradio.Blocks`.

    Raises:
        GlczooError: Gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError:
        raise GlczooError("the app needs Gradio: pip install 'glczoo[app]'") from None

    model = predictor.model
    text, pixels, answer, seen = _first(predictor)
    with gr.Blocks(
        title=f"glczoo · {model.name}", analytics_enabled=False, delete_cache=(3600, 3600)
    ) as blocks:
        gr.HTML(_introduction(predictor))
        with gr.Row():
            with gr.Column(scale=5):
                picture = gr.Image(
                    pixels,
                    format="png",
                    show_label=False,
                    interactive=False,
                    buttons=[],
                    elem_id="map",
                )
                place = gr.Textbox(
                    text,
                    label="Longitude, latitude (degrees)",
                    placeholder="6.52, 46.91",
                    submit_btn="Predict",
                    elem_id="place",
                )
                gr.HTML(_quiet(_legend(predictor)))
            with gr.Column(scale=4):
                species = gr.HTML(answer, elem_id="species")
        patches = gr.HTML(seen, elem_id="patches")
        patch_id = f" and {' and '.join(predictor.source.keyed.values())}" if predictor.source.keyed else ""
        gr.Markdown(
            f"## Many places\nUpload a CSV with the columns `lon` and `lat`{patch_id}, and download a table "
            "of the species of every point, the same that `glczoo predict --points` writes. Points that "
            "cannot be answered are listed with the reason."
        )
        with gr.Row():
            table = gr.File(label="Points (CSV)", file_types=_TABLES, height=140, elem_id="points")
            with gr.Column():
                outcome = gr.HTML(elem_id="said")
                files = gr.File(label="Download", visible=False, interactive=False, elem_id="files")
        gr.HTML(_quiet(_about(predictor.region)))
        # One place at a time, and beside it one table: whoever clicks does not wait for somebody's upload.
        places, tables = ({"concurrency_id": name, **_QUEUE} for name in ("places", "tables"))
        clicked, pasted, uploaded = _handlers(predictor)
        picture.select(clicked, None, [place, picture, species, patches], **places)
        place.submit(pasted, place, [picture, species, patches], **places)
        table.change(uploaded, table, [outcome, files], **tables)
    return blocks


def _first(predictor: PlacePredictor) -> tuple[str, np.ndarray, str, str]:
    """What stands there before anybody has clicked: the answer of a surveyed place in the middle, if any."""
    nothing = _quiet("The species appear here once a place is chosen.")
    place = predictor.middle
    if place is None:
        return "", predictor.map.pixels, nothing, ""
    try:
        answer = predictor.at(*place)
    except ValueError:  # such as a place without data
        return "", predictor.map.pixels, nothing, ""
    text = f"{place[0]:.5f}, {place[1]:.5f}"
    return text, *_shown(predictor, answer)


def _shown(predictor: PlacePredictor, answer: PlaceAnswer) -> tuple[np.ndarray, str, str]:
    """The map with the place marked, its species, and what the model saw there."""
    marked = predictor.map.marked(float(answer.place.lon[0]), float(answer.place.lat[0]))
    return marked, species_html(answer), patches_html(answer.patches, predictor.shown.name)


def _handlers(predictor: PlacePredictor) -> tuple[Callable, Callable, Callable]:
    """What a click on the map, a pasted place and an uploaded table do."""
    import gradio as gr

    drawn = predictor.map

    def pasted(text: str) -> tuple[np.ndarray, str, str]:
        try:
            answer = predictor.at(*read_place(text))
        except ValueError as error:
            return drawn.pixels, error_html(str(error)), ""
        return _shown(predictor, answer)

    def clicked(event: gr.SelectData) -> tuple[str, np.ndarray, str, str]:
        place = drawn.place(*event.index)
        if place is None:
            return "", drawn.pixels, error_html("Click inside of the map's frame."), ""
        text = f"{place[0]:.5f}, {place[1]:.5f}"
        return text, *pasted(text)

    def uploaded(path: str | None) -> Iterator[tuple[str, Any]]:
        if path is None:
            yield "", gr.File(visible=False)
            return
        with tempfile.TemporaryDirectory() as folder:  # Gradio takes its copy before it asks for more
            try:
                written = predictor.table(Path(path), Path(folder) / "species.csv")
            except ValueError as error:
                yield error_html(str(error)), gr.File(visible=False)
                return
            yield table_html(written), gr.File(sorted(map(str, Path(folder).iterdir())), visible=True)

    return clicked, pasted, uploaded


def serve(
    runs: Sequence[str | Path],
    region: Region | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    batch_size: int = 256,
    block: bool = True,
) -> Any:
    """Open models and serve their page.

    Args:
        runs: folders of finished runs, or `hf-hub:ORG/NAME`, that share a vocabulary.
        region: where the rasters are; the first run's if None.
        host: address to listen at; None: this machine alone, or what GRADIO_SERVER_NAME says (as on a Space).
        port: None: the first free one from 7860 on.
        batch_size: points in a batch.
        block: return when the server ends.

    Returns:
        The page, which `close()` ends.

    Raises:
        MissingError: a run or a raster is not there.
        GlczooError: Gradio is not installed, the port is taken, or the runs do not fit each other or the
            region.
    """
    predictor = PlacePredictor(runs, region, batch_size)
    blocks = page(predictor)
    import gradio as gr

    theme = gr.themes.Default(primary_hue="emerald", neutral_hue="stone", font=["system-ui", "sans-serif"])
    try:
        _, url, _ = blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            run_history=False,
            footer_links=[],
            max_file_size=_UPLOAD,
            css=_CSS,
            theme=theme,
        )
    except OSError as error:
        raise GlczooError(f"no page can be served: {error}; name another: --port, --host") from None
    print(f"{url} predicts by {predictor.model.name}; Ctrl-C ends it", flush=True)
    if block:
        blocks.block_thread()
    return blocks


def _quiet(text: str) -> str:
    return f'<div class="gz"><p class="quiet">{escape(text)}</p></div>'


def _introduction(predictor: PlacePredictor) -> str:
    shown = predictor.shown
    return (
        f'<div class="gz"><h1>Which plants grow here?</h1><p>Click on the map or paste coordinates: '
        f"<b>{escape(predictor.model.name)}</b> looks at {len(shown.bands)} bands around the place "
        f"({escape(', '.join(shown.modalities))}) and predicts which of {len(shown.species):,} species to "
        "expect.</p></div>"
    )


def _about(region: Region) -> str:
    licence = f"Licence: {region.licence}" if region.licence else ""
    parts = [f"Region {region.name}", region.description, licence]
    return ". ".join(part.rstrip(".") for part in parts if part) + "."


def _legend(predictor: PlacePredictor) -> str:
    text = ""
    if len(predictor.places):
        text += f"White dots: {len(predictor.places):,} places that were surveyed. "
    if predictor.background:
        text += f"Colours: {predictor.background}, dark is low, bright is high. "
    return text + "Ring: the place that was predicted."


def error_html(message: str) -> str:
    """A message in the place of a prediction."""
    return f'<div class="gz" role="alert"><p class="note bad">{escape(message)}</p></div>'


_HEADINGS = {"probability": "Probability", "suitability": "Suitability, a rank: no probability of presence"}


def species_html(answer: PlaceAnswer) -> str:
    """The prediction at a place: how far to trust it, and the species with their probabilities."""
    columns = answer.answers.columns
    kind_of_answer = "suitability" if "suitability" in columns else "probability"
    rows = []
    for number, name, probability, chosen in zip(
        columns["speciesId"].tolist(),
        columns["species"].tolist(),
        columns[kind_of_answer].tolist(),
        columns["in_set"].tolist(),
        strict=True,
    ):
        label = f"<i>{escape(name)}</i>" if name else f"species {number}"
        rows.append(
            f'<tr class="{"in" if chosen else "out"}" data-species="{number}">'
            f"<td>{'✓' if chosen else ''}</td><td>{label}</td>"
            f'<td><span class="of"><span class="bar" style="width: {100 * probability:.1f}%"></span></span>'
            f'<span class="number">{probability:.3f}</span></td></tr>'
        )
    chosen = int(columns["in_set"].sum())
    kind = {True: "good", False: "bad", None: ""}[answer.applicable]
    careful = "<b>Careful.</b> " if answer.applicable is False else ""
    notes = [f'<p class="note">{escape(note)}</p>' for note in answer.notes[:-1]]
    notes += [f'<p class="note {kind}">{careful}{escape(answer.notes[-1])}</p>']
    place = f"lon {answer.place.lon[0]:.5f}, lat {answer.place.lat[0]:.5f}"
    return (
        f'<div class="gz"><h2>{chosen} species to be expected</h2><p class="quiet">at {place}; the set (✓) '
        f"is chosen by {escape(str(answer.answers.decoding))}</p>{''.join(notes)}"
        f"<table><thead><tr><th></th><th>Species</th><th>{_HEADINGS[kind_of_answer]}</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def patches_html(patches: Sequence[Patch], model: str) -> str:
    """The patches that a model saw, by modality."""
    parts = []
    for modality, group in groupby(patches, key=lambda patch: patch.modality):
        figures = "".join(
            f'<figure class="{"" if patch.text else "wide"}"><img alt="{escape(patch.name)}" '
            f'src="data:image/png;base64,{base64.b64encode(patch.picture).decode()}">'
            f"<figcaption><b>{escape(patch.name)}</b>{escape(patch.text)}</figcaption></figure>"
            for patch in group
        )
        title = f"<h3>{escape(modality)}</h3>"
        parts.append(f'<section>{title}<div class="patches">{figures}</div></section>')
    return (
        f'<div class="gz"><h2>What {escape(model)} saw</h2><p class="quiet">With the value at the centre. '
        "Colours span two standard deviations around the mean of the training samples; cells without data "
        f"are filled with that mean, as they are for the model.</p>"
        f'<div class="sections">{"".join(parts)}</div></div>'
    )


def table_html(table: PredictedTable) -> str:
    """What became of an uploaded table."""
    left = "".join(f"<li>{number} {escape(reason)}</li>" for reason, number in table.left_out.items())
    left = f"<p>Left out, each with its reason in species.left_out.csv:</p><ul>{left}</ul>" if left else ""
    return (
        f'<div class="gz"><p class="note good">{table.points:,} points answered, {table.set_size:.1f} '
        f"species each ({escape(str(table.decoding))}).</p>{left}</div>"
    )
