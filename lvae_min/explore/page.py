"""The page of `explore`: its pieces as HTML, and how gradio puts them together.

An image goes to the browser as a PNG inside the HTML, so that no file is written for it.
"""

import base64
import html
import io
from contextlib import suppress

import numpy as np
from PIL import Image

from lvae_min import plots
from lvae_min.explore.gallery import (
    FINISHED,
    LATEST,
    SELECTED,
    SPAN,
    STEPS,
    WALK_STEPS,
    Explorer,
    Gallery,
    Status,
    View,
)
from lvae_min.io.text import one_line
from lvae_min.report import COLUMNS, TERMS, duration

MOST_SLIDERS = 32
SAMPLES = 6  # images above their reconstructions
REFRESH_SECONDS = 2.0  # between two readings of the folder
NO_RUN = (
    "There is no run here yet. The button starts a first one, which takes minutes; this page shows it learn."
)
CSS = """
.gradio-container main {max-width: 1400px !important; padding: 10px 16px !important}
footer {display: none !important}
#title h1 {font-size: 21px; margin: 0; display: inline}
#title p {display: inline; margin-left: 12px; opacity: .7}
.html-container {padding: 0 !important}
.shown {display: grid; gap: 4px; text-align: center; font-size: 12px; line-height: 1.4}
.shown.two {grid-template-columns: 1fr 1fr; gap: 12px; font-size: 14px}
.shown img {display: block; width: 100%; aspect-ratio: 1; image-rendering: pixelated; background: #8883;
            border-radius: 2px}
.shown .now {outline: 2px solid var(--color-accent); outline-offset: 1px}
.head {font-size: 13px; margin: 4px 0}
.shown + .shown {margin-top: 4px}
.facts {font-size: 13px}
#which {padding: 4px 10px !important}
.facts img {width: 100%; margin-top: 8px}
.scores {display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px; margin: 8px 0 4px}
.scores div {text-align: center}
.scores div {background: #8881; border-radius: 3px; padding: 2px; font-size: 14px; font-weight: 600}
.scores small {display: block; font-weight: 400; opacity: .75}
.bar {height: 6px; border-radius: 3px; background: #8883; margin: 6px 0}
.bar div {height: 100%; border-radius: 3px; background: var(--color-accent)}
.quiet {opacity: .75; font-size: 12px}
.note {border-left: 3px solid var(--color-accent); padding: 6px 10px; font-size: 14px; background: #8881;
       overflow-wrap: anywhere}
#latents {max-height: calc(100vh - 80px); overflow-y: auto; flex-wrap: nowrap}
#latents .block {padding: 4px 10px !important; flex-shrink: 0}
"""


def source(image: np.ndarray) -> str:
    """An image (H, W, C) uint8 as the address of a PNG that holds it: no file is written for it."""
    content = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
        content, "PNG", compress_level=1
    )
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def shown(image: np.ndarray, caption: str = "", now: bool = False, name: str = "") -> str:
    """An image and its caption. Decoded before it is drawn, so that nothing flickers."""
    return (
        f'<div><img {f"id={name}" if name else ""} class="{"now" if now else ""}" decoding="sync" '
        f'alt="{html.escape(caption)}" src="{source(image)}">{html.escape(caption)}</div>'
    )


def row(images, captions, now: int | None = None, ends: tuple = ()) -> str:
    """Images side by side, one of them marked; `ends` are two more images, at both ends."""
    cells = [
        shown(image, caption, place == now)
        for place, (image, caption) in enumerate(zip(images, captions, strict=True))
    ]
    if ends:
        cells = [shown(ends[0], "A"), *cells, shown(ends[1], "B")]
    return (
        f'<div class="shown" style="grid-template-columns: repeat({len(cells)}, 1fr)">{"".join(cells)}</div>'
    )


def note(text) -> str:
    """A message, whatever it holds."""
    return f'<div class="note">{html.escape(one_line(text)[:400])}</div>'


def curves(status: Status) -> str:
    """rec, kl and the weight of kl over the iterations so far."""
    with plots.DRAWING:
        figure, ((terms,), (weight,)) = plots.new_figure(3.6, 2.7, 2, 1, sharex=True)
        steps = [line["step"] for line in status.lines]
        for name in ("rec", "kl"):
            terms.plot(steps, [line[name] for line in status.lines], label=name)
        terms.set(yscale="log", ylabel="rec, kl")
        terms.legend(fontsize=7)
        weight.plot(steps, [line["beta"] for line in status.lines], "C2")
        weight.set(xlabel="iterations", ylabel="beta", xlim=(0, status.iterations))
        for axes in (terms, weight):
            axes.tick_params(labelsize=7)
            axes.xaxis.label.set_size(8)
            axes.yaxis.label.set_size(8)
        content = io.BytesIO()
        figure.savefig(content, dpi=180, format="png")
    picture = base64.b64encode(content.getvalue()).decode()
    return (
        f'<img class="curves" alt="rec, kl and beta over iterations" src="data:image/png;base64,{picture}">'
    )


def facts(status: Status) -> str:
    """The state of a run: progress, scores, curves."""
    settings, done = status.settings, status.iteration / max(status.iterations, 1)
    name, dataset = (f"<b>{html.escape(one_line(settings[key]))}</b>" for key in ("model", "dataset"))
    so_far = "" if status.phase == FINISHED else f"{status.iteration:,} of "
    parts = [f"<div>{name} on {dataset}: {status.phase}, {so_far}{status.iterations:,} iterations</div>"]
    if status.phase != FINISHED:
        parts.append(f'<div class="bar"><div style="width: {done:.1%}"></div></div>')
    if status.phase != FINISHED and status.lines:
        last = status.lines[-1]
        left = "" if status.left is None else f"; {duration(status.left)} left"
        terms = ", ".join(f"{key} {last[key]:.4g}" for key in TERMS)
        parts.append(f"<div>{terms}{left}</div>")
    tiles = [
        f"<div><small>{title}</small>{status.scores[key]:.{2 if key in ('rec_mean', *TERMS) else 3}f}</div>"
        for key, title in COLUMNS.items()
        if key in status.scores
    ]
    if tiles:
        parts.append(f'<div class="scores">{"".join(tiles)}</div>')
        parts.append(f'<div class="quiet">{html.escape(status.scored)}</div>')
    if status.lines:
        parts.append(curves(status))
    return f'<div class="facts">{"".join(parts)}</div>'


def pictures(view: View) -> str:
    """Image A, and what the present code decodes to."""
    if view.first is None:
        left = note(f"Its images cannot be read, so only codes are decoded: {view.explorer.missing}")
    else:
        left = shown(view.explorer.image(view.first), f"image A (number {view.first:,})", name="image")
    right = shown(view.explorer.decode(view.z[None])[0], view.how, name="decoded")
    return f'<div class="shown two">{left}{right}</div>'


def strip(view: View) -> str:
    """The traversal of the latent last touched."""
    images, nearest = view.traversal()
    title = html.escape(view.explorer.titles[view.touched])
    captions = [f"{value:+.1f}" for value in np.linspace(-SPAN, SPAN, STEPS)]
    head = f'<div class="head">Traversal of <b>{title}</b>, the other latents as they are</div>'
    return head + row(images, captions, nearest)


def walk(view: View) -> str:
    """The way from image A to image B."""
    if view.first is None:
        return ""
    explorer, steps, (first, second) = view.explorer, WALK_STEPS - 1, view.ends
    captions = [f"{step / steps:.0%}" for step in range(WALK_STEPS)]
    ends = explorer.image(first), explorer.image(second)
    head = "<b>Walk</b> from the code of image A to that of image B"
    return f'<div class="head">{head} (number {second:,})</div>' + row(
        view.walk(), captions, round(view.share * steps), ends
    )


def samples(explorer: Explorer) -> str:
    """Some images above their reconstructions."""
    if explorer.dataset is None:
        return ""
    images, reconstructions = explorer.reconstructions(SAMPLES)
    head = f"More images and, below, their reconstructions (iteration {explorer.iteration:,})"
    if explorer.changed:
        head += ". The images have changed since the run began; it may have been trained on some of these"
    blank = [""] * len(images)
    return f'<div class="head">{head}</div>{row(images, blank)}{row(reconstructions, blank)}'


def heading(explorer: Explorer) -> str:
    """What stands above the sliders."""
    text = "<b>Latents</b>"
    if explorer.dataset is not None:
        text += " by their KL" + ": the factor each knows most about" * bool(explorer.dataset.factor_names)
    if explorer.latents > MOST_SLIDERS:
        text += f"; {MOST_SLIDERS} of {explorer.latents}"
    return f'<div class="head">{text}</div>'


def page(gr, gallery: Gallery, first: str | None, training):
    """The page as gradio's blocks.

    gr        the module gradio
    first     the run that is shown at first; None for the latest
    training  has `start()` and `message()`: `server.Training`
    """
    names = gallery.names()
    with gr.Blocks(title="lvae_min: explore", analytics_enabled=False, fill_width=True) as blocks:
        seen = gr.State(View())
        gr.HTML(
            "<h1>Explore a trained VAE</h1><p>Move a slider and see what that latent has learned.</p>",
            elem_id="title",
        )
        with gr.Row():
            with gr.Column(scale=30, min_width=260):
                chosen = gr.Dropdown(
                    names,
                    value=first or next(iter(names), None),
                    label="Run",
                    elem_id="run",
                    filterable=False,
                )
                start = gr.Button(
                    "Train a first network: L-VAE on dSprites",
                    variant="primary",
                    visible=not names,
                    elem_id="start",
                )
                about = gr.HTML(elem_id="about")
                which = gr.Radio([SELECTED, LATEST], label="Network", elem_id="which", visible=False)
                more = gr.HTML(elem_id="more")
            with gr.Column(scale=78, min_width=480):
                pair = gr.HTML(elem_id="pictures")
                with gr.Row():
                    another = gr.Button("Another image A", size="sm", elem_id="another")
                    prior = gr.Button("Random z", size="sm", elem_id="prior")
                    back = gr.Button("Back to image A", size="sm", elem_id="back")
                moved_strip, walk_strip = gr.HTML(elem_id="strip"), gr.HTML(elem_id="walk")
                with gr.Row():
                    share = gr.Slider(
                        0, 1, 0, step=0.01, label="From A to B", elem_id="share", scale=3, buttons=[]
                    )
                    other = gr.Button("Another image B", size="sm", scale=1, min_width=120, elem_id="other")
            with gr.Column(scale=32, min_width=280, elem_id="latents"):
                latents = gr.HTML()
                sliders = [
                    gr.Slider(-1e6, 1e6, 0, step=0.01, visible=False, elem_id=f"latent-{rank}", buttons=[])
                    for rank in range(MOST_SLIDERS)
                ]
        timer = gr.Timer(REFRESH_SECONDS)

        code = [seen, pair, moved_strip]  # what a slider changes
        codes = [*code, walk_strip, share, *sliders]  # what all else that moves the code changes
        network = [*codes, which, more, latents, another, prior, back, other]
        whole = [about, *network]

        def set_sliders(view: View) -> list:
            """All sliders at the present code."""
            explorer = view.explorer
            limit = max(explorer.limit, float(np.ceil(np.abs(view.z).max())))
            updates = [
                gr.update(
                    minimum=-limit,
                    maximum=limit,
                    value=round(float(view.z[latent]), 2),
                    label=explorer.titles[latent],
                    visible=True,
                )
                for latent in explorer.order[:MOST_SLIDERS]
            ]
            return updates + [gr.update(visible=False)] * (MOST_SLIDERS - len(updates))

        def show_code(view: View) -> list:
            return [view, pictures(view), strip(view)]

        def show_codes(view: View) -> list:
            way = gr.update(value=view.share, visible=view.first is not None)
            return [*show_code(view), walk(view), way, *set_sliders(view)]

        def show_network(view: View, message: str | Exception = "") -> list:
            """`message` stands where the pictures would be if there is no network."""
            usable, images = view.network is not None, view.first is not None
            buttons = [gr.update(visible=visible) for visible in (images, usable, usable, images)]
            if not usable:
                hidden = [gr.update(visible=False)] * (1 + MOST_SLIDERS + 1)
                return [view, note(message) if message else "", "", "", *hidden, "", "", *buttons]
            choice = gr.update(value=view.explorer.which, visible=True)
            return [*show_codes(view), choice, samples(view.explorer), heading(view.explorer), *buttons]

        def show_run(name: str | None, which: str | None = None) -> list:
            """All of a run; its view has no names, so that the next `refresh` sends them."""
            if not name:
                return [note(training.message() or NO_RUN), *show_network(View())]
            progress, stamps = "", None
            try:
                stamps = gallery.stamps(name)
                explorer = gallery.explorer(name, which)
                progress = facts(gallery.status(name, explorer.which))
                return [progress, *show_network(View((), name, stamps, explorer, which))]
            except (ValueError, OSError) as error:
                with suppress(ValueError, OSError):  # a run that has no network yet
                    progress = facts(gallery.status(name))
                return [progress, *show_network(View((), name, stamps), error)]

        def refresh(view: View, name: str | None) -> list:
            """What has changed: the runs, this run's log, its network."""
            found, skip = gallery.names(), gr.skip()
            same = [skip] * len(network)
            if name not in found:  # none yet, or it was removed
                name = next(iter(found), None)
                if name is None and view.name is None:
                    return [skip, skip, note(training.message() or NO_RUN), *same]
                return [gr.update(choices=found, value=name), gr.update(visible=not found), *show_run(name)]
            runs = skip if found == view.names else gr.update(choices=found)
            view.names = found
            if view.name != name:  # just chosen: its own event shows it
                return [runs, skip, skip, *same]
            try:
                stamps, before = gallery.stamps(name), view.stamps
                if stamps == before:
                    return [runs, skip, skip, *same]
                view.stamps = stamps
                if before and stamps[0] == before[0]:
                    of = view.network.which if view.network else None
                    return [runs, skip, facts(gallery.status(name, of)), *same]
                if view.network is None:
                    return [runs, skip, *show_run(name)]
                view.renew(gallery.explorer(name, view.which))
                return [runs, skip, facts(gallery.status(name, view.network.which)), *show_network(view)]
            except (ValueError, OSError) as error:
                return [runs, skip, note(error), *same]

        def event(change, show, outputs: list):
            """A function for gradio: change the view of a network and show what follows from that."""

            def changed(view: View, *values):
                if view.network is None:
                    return [gr.skip()] * len(outputs)
                change(view, *values)
                return show(view)

            return {"fn": changed, "outputs": outputs}

        def begin():
            training.start()
            return note(training.message())

        direct = {"queue": False, "api_visibility": "private"}
        quiet = {**direct, "show_progress": "hidden"}
        dragged = {**quiet, "trigger_mode": "always_last"}  # of values that come too fast, the last counts
        for rank, slider in enumerate(sliders):
            move = event(lambda view, value, rank=rank: view.move(rank, value), show_code, code)
            slider.input(**move, inputs=[seen, slider], **dragged)
        share.input(**event(View.walk_to, show_codes, codes), inputs=[seen, share], **dragged)
        clicks = {prior: View.prior, back: View.back, another: View.another_first, other: View.another_second}
        for button, change in clicks.items():
            button.click(**event(change, show_codes, codes), inputs=[seen], **quiet)
        start.click(begin, None, [about], **quiet)
        chosen.input(show_run, [chosen], whole, show_progress="minimal", **direct)
        which.input(show_run, [chosen, which], whole, show_progress="minimal", **direct)
        blocks.load(show_run, [chosen], whole, show_progress="minimal", **direct)
        timer.tick(refresh, [seen, chosen], [chosen, start, *whole], **quiet)
    return blocks
