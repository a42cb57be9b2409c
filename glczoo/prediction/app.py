"""A page to click: `glczoo app RUN`. Gradio's part of it; what it shows comes from `guide`.

Nothing leaves the machine: no share link, no analytics, fonts that are served from here.
"""

import base64
import tempfile
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from glczoo.data.region import Region
from glczoo.prediction.place import Guide, Patch, Told, read_place

__all__ = ["page", "serve"]

_UPLOAD = "32mb"  # about a million points: more is for `glczoo predict`
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
.gz figcaption b {display: block; font-size: .8rem}
"""


def page(guide: Guide) -> Any:
    """The page of a guide, a `gradio.Blocks`.

    Raises:
        ValueError: Gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError:
        raise ValueError("the app needs Gradio: pip install 'glczoo[app]'") from None

    def ask(lon: float, lat: float) -> tuple[np.ndarray, str, str]:
        told = guide.at(lon, lat)
        marked = guide.map.marked(float(told.asked.lon[0]), float(told.asked.lat[0]))
        return marked, species_html(told), patches_html(told.patches, guide.shown.name)

    def clicked(event: gr.SelectData) -> tuple[str, Any, str, str]:
        place = guide.map.place(*event.index)
        if place is None:
            return "", guide.map.pixels, error_html("Click inside of the map's frame."), ""
        text = f"{place[0]:.5f}, {place[1]:.5f}"
        return text, *pasted(text)

    def pasted(text: str) -> tuple[Any, str, str]:
        try:
            return ask(*read_place(text))
        except ValueError as error:
            return guide.map.pixels, error_html(str(error)), ""

    def uploaded(path: str | None) -> Iterator[tuple[str, Any]]:
        if path is None:
            yield "", gr.File(visible=False)
            return
        with tempfile.TemporaryDirectory() as folder:  # Gradio takes its copy before it asks for more
            out = Path(folder) / "species.csv"
            try:
                told = guide.table(Path(path), out)
            except ValueError as error:
                yield error_html(str(error)), gr.File(visible=False)
                return
            yield table_html(told), gr.File(sorted(map(str, Path(folder).iterdir())), visible=True)

    model, shown, region = " + ".join(member.name for member in guide.members), guide.shown, guide.region
    patch_id = " and `patchID`" if guide.source.jpegs else ""
    about = [f"Region {region.name}", region.description]
    about += [f"Licence: {region.licence}"] if region.licence else []
    with gr.Blocks(title=f"glczoo · {model}", analytics_enabled=False, delete_cache=(3600, 3600)) as made:
        gr.Markdown(
            f"# Which plants grow here?\nClick on the map or paste coordinates: **{model}** looks at "
            f"{len(shown.bands)} bands around the place ({', '.join(shown.modalities)}) and tells which of "
            f"{len(shown.species):,} species are to be expected."
        )
        with gr.Row():
            with gr.Column(scale=5):
                picture = gr.Image(
                    guide.map.pixels, format="png", show_label=False, interactive=False, buttons=[],
                    elem_id="map",
                )  # fmt: skip
                place = gr.Textbox(
                    label="Longitude, latitude (degrees)", placeholder="6.52, 46.91", submit_btn="Ask",
                    elem_id="place",
                )  # fmt: skip
                gr.HTML(_quiet(_legend(guide)))
            with gr.Column(scale=4):
                species = gr.HTML(_quiet("The answer stands here once a place is chosen."), elem_id="species")
        patches = gr.HTML(elem_id="patches")
        gr.Markdown(
            f"## Many places\nUpload a CSV with the columns `lon` and `lat`{patch_id}, and take home a table "
            "of the species of every point, the same that `glczoo predict --points` writes. Points that "
            "cannot be answered are listed with the reason."
        )
        with gr.Row():
            table = gr.File(label="Points (CSV)", file_types=[".csv"], height=140, elem_id="points")
            with gr.Column():
                said = gr.HTML(elem_id="said")
                files = gr.File(label="Download", visible=False, interactive=False, elem_id="files")
        gr.HTML(_quiet(". ".join(part.rstrip(".") for part in about if part) + "."))
        # One model answers one question at a time.
        told: dict[str, Any] = {
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "api_visibility": "private",
        }
        picture.select(clicked, None, [place, picture, species, patches], **told)
        place.submit(pasted, place, [picture, species, patches], **told)
        table.change(uploaded, table, [said, files], **told)
    return made


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
        FileNotFoundError: a run or a raster is not there.
        ValueError: Gradio is not installed, the port is taken, or the runs do not fit each other or the
            region.
    """
    guide = Guide(runs, region, batch_size)
    made = page(guide)
    import gradio as gr

    theme = gr.themes.Default(primary_hue="emerald", neutral_hue="stone", font=["system-ui", "sans-serif"])
    try:
        _, url, _ = made.launch(
            server_name=host, server_port=port, share=False, prevent_thread_lock=True, quiet=True,
            ssr_mode=False, run_history=False, footer_links=[], max_file_size=_UPLOAD, css=_CSS, theme=theme,
        )  # fmt: skip
    except OSError as error:
        raise ValueError(f"no page can be served: {error}; name another: --port, --host") from None
    print(f"{url} answers by {' + '.join(m.name for m in guide.members)}; Ctrl-C ends it", flush=True)
    if block:
        made.block_thread()
    return made


def _quiet(text: str) -> str:
    return f'<div class="gz"><p class="quiet">{escape(text)}</p></div>'


def _legend(guide: Guide) -> str:
    told = f"White dots: {len(guide.places):,} places that were surveyed. " if len(guide.places) else ""
    if guide.background:
        told += f"Colours: {guide.background}, dark is low, bright is high. "
    return told + "Ring: the place that was asked."


def error_html(message: str) -> str:
    """A message that stands in the place of an answer."""
    return f'<div class="gz" role="alert"><p class="note bad">{escape(message)}</p></div>'


def species_html(told: Told) -> str:
    """What is said of a place: how far to trust it, and the species with their probabilities."""
    columns = told.answers.columns
    rows = []
    for number, name, probability, chosen in zip(
        columns["speciesId"].tolist(), columns["species"].tolist(), columns["probability"].tolist(),
        columns["in_set"].tolist(), strict=True,
    ):  # fmt: skip
        named = f"<i>{escape(name)}</i>" if name else f"species {number}"
        rows.append(
            f'<tr class="{"in" if chosen else "out"}" data-species="{number}">'
            f"<td>{'✓' if chosen else ''}</td><td>{named}</td>"
            f'<td><span class="of"><span class="bar" style="width: {100 * probability:.1f}%"></span></span>'
            f'<span class="number">{probability:.3f}</span></td></tr>'
        )
    chosen = int(columns["in_set"].sum())
    kind = {True: "good", False: "bad", None: ""}[told.applicable]
    notes = [f'<p class="note">{escape(note)}</p>' for note in told.notes[:-1]]
    notes += [f'<p class="note {kind}">{"<b>Careful.</b> " * (kind == "bad")}{escape(told.notes[-1])}</p>']
    place = f"lon {told.asked.lon[0]:.5f}, lat {told.asked.lat[0]:.5f}"
    return (
        f'<div class="gz"><h2>{chosen} species to be expected</h2><p class="quiet">at {place}; the set (✓) '
        f"is chosen by {escape(str(told.answers.decoding))}</p>{''.join(notes)}"
        "<table><thead><tr><th></th><th>Species</th><th>Probability</th></tr></thead>"
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
        "Colours span two standard deviations around the mean of the training surveys; cells without data "
        f"are filled with that mean, as they are for the model.</p>"
        f'<div class="sections">{"".join(parts)}</div></div>'
    )


def table_html(told: dict[str, Any]) -> str:
    """What became of an uploaded table."""
    left = "".join(f"<li>{number} {escape(why)}</li>" for why, number in told["left_out"].items())
    left = f"<p>Left out, each with its reason in species.left_out.csv:</p><ul>{left}</ul>" if left else ""
    return (
        f'<div class="gz"><p class="note good">{told["points"]:,} points answered, {told["set_size"]:.1f} '
        f"species each ({escape(told['decoding'])}).</p>{left}</div>"
    )
