"""The controls and pictures of the page that `web.py` serves. What they ask for is done by palimpsest.py."""

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from web_session import MEASURED, TASKS, Answers, Session, ends, ours, own_steps

import palimpsest as P
from data import manifest
from data.opened import Opened
from solvers.run.figures import STYLE, picture, size, uri
from solvers.run.flags import DEMO
from solvers.run.progress import about

TAKEN = ("result", "panel", "report", "mask")
CSS = f"""{STYLE} .refused {{ color: #d9480f; font-weight: 600 }} .take a {{ margin-right: 1em }}
.figures + ul {{ margin-top: 1em }} progress {{ width: 100% }} #file {{ max-width: 100% }} #arrived, #drawn {{ display: none }}
.mask {{ position: relative; line-height: 0 }} .mask img {{ width: 100%; height: 100% }}
.mask canvas {{ position: absolute; inset: 0; width: 100%; height: 100%; opacity: .75; cursor: crosshair; touch-action: none }}"""
FONTS: Any = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
GREY = {"body_text_color_subdued": "*neutral_600", "body_text_color_subdued_dark": "*neutral_400"}
LOOK = {
    "theme": gr.themes.Base(**FONTS).set(**GREY),
    "css": CSS,
    "head": f"<script>{Path(__file__).with_name('web.js').read_text()}</script>",
}
ABOUT = "# Palimpsest\n**Research use, not for diagnosis.** A restored image is an estimate: parts may be missing or invented."
SEND = """<div data-token='{}'><label>or your own: DICOM, NIfTI, NRRD, TIFF, PNG, NPY; k-space; a ZIP of a DICOM series, of
pictures, or of a sinogram and its YAML <input id=file type=file></label><p id=said class=refused role=alert></p></div>"""
DRAW = "draw over what was not measured; a double click clears it"
BEGIN = ("super_resolution", "pnp")  # task and solver of a new page
DEMOS = {row.image_id: row for row in manifest.read(DEMO)}
SOLVERS = {name: line for name, line in P.solvers().items() if not name.startswith("prior")}
HIDDEN: Any = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
LAST: Any = {"trigger_mode": "always_last", **HIDDEN}
WORK: Any = {"concurrency_limit": 1, "concurrency_id": "work", "api_visibility": "private"}
TIMED: Any = {"trigger_mode": "always_last", "show_progress": "hidden", **WORK}


def refused(session: Session, error: BaseException) -> str:
    return f"<p class=refused role=alert>{html.escape(session.said(error))}</p>"


def show(s: Session, k: float, level: float, width: float, task: str) -> str:
    """The scan as it is looked at, below a canvas where the task has a mask; nothing of one that is gone meanwhile."""
    try:
        pixels, *own = s.scan.look(int(k))
    except P.Refusal as error:
        return refused(s, error)
    h, w = pixels.shape[-2:]
    image = uri(picture(pixels.numpy(), *(ends(level, width) or own)))
    masked = any(one.name == "mask" for one in P.settings("tasks", task) if one.kind == "file")
    canvas = f"<canvas id=hole data-scan={s.scans} width={w} height={h}></canvas>" if masked else ""
    what = {"k-space": "k-space, dB: ", "sinogram": "sinogram: "}.get(s.scan.holds, "")
    hint = DRAW if masked else f"{what}{w} × {h} pixels"
    shown = f"<img src='{image}' alt='the scan'>{canvas}"
    return f"<small>{hint}</small><div class=mask style='{size(pixels.shape)}'>{shown}</div>"


def chosen(s: Session, task: str) -> tuple:
    """A scan has come: its slices, the window it is looked at through, and the task that it needs."""
    count, middle = len(s.scan.rows), len(s.scan.rows) // 2
    _, low, high = s.scan.look(middle)
    several, hidden = gr.update(visible=count > 1), gr.update(visible=False)
    due = TASKS.get(s.scan.holds, BEGIN[0] if task in TASKS.values() else task)
    demo = None if s.sent else s.scan.rows[0].image_id
    window = [float(f"{x:.5g}") for x in ((low + high) / 2, high - low)]  # 0.1155, not 0.11549997
    return demo, through(count), several, *window, due, s.scan.holds in TASKS, "", "", hidden, ""


def through(count: int) -> Any:
    """A slider through so many, at the middle one."""
    return gr.update(maximum=max(count - 1, 1), value=count // 2, visible=count > 1)


def restore(level: float, width: float, *said: Any) -> Iterator[tuple]:
    """What is shown while it runs and of what came out, the slider through its rows, and the profile of its middle one."""
    asked, hidden, seen = Answers(*said), gr.update(visible=False), None
    s: Session = asked.session
    scan = s.scans
    try:
        for seen in P.follow(s.scan.path, stop=s.stop, **asked.words()):
            yield ("" if isinstance(seen, list | P.Result) else seen.html()), hidden, ""
        s.result = seen[0] if isinstance(seen, list) else seen
        rows = s.result.middle.image.shape[-2]
        take = TAKEN if s.hole.exists() else TAKEN[:-1]
        at = f"/take/{s.token}"
        links = [f"<a id=take-{one} href='{at}/{one}' download>{one}</a>" for one in take]
        window = ends(level, width) if s.scan.holds == "images" else None  # else of other units
        told = re.sub("<li>.*?</li>", lambda note: ours(note[0]), s.result.html(window))
        shown = f"{told}<p class=take>Download: {''.join(links)}</p>"
        yield shown, through(rows), s.result.profile(rows // 2)
    except P.Stopped:
        shown = f"<p role=status id=stopped>Stopped.</p>{seen.figures() if seen else ''}"
        yield shown * (scan == s.scans), hidden, ""  # nothing of a scan that is gone
    except Exception as error:
        yield refused(s, error) * (scan == s.scans), hidden, ""  # its file may be gone, too


def profile(s: Session, row: float) -> str:
    return s.result.profile(int(row)) if s.result else ""


def estimate(*said: Any) -> str:
    try:
        return f"about **{about(Answers(*said).seconds())}** on this computer"
    except Exception as error:
        return refused(said[0], error)


def spelled(*said: Any) -> str:
    try:
        return Answers(*said).spelled()
    except P.Refusal as error:
        return f"# {said[0].said(error)}"


class Place(gr.Slider):
    """A slider whose number may come before its new ends do, or be emptied: who is asked takes the nearest that there is."""

    is_template = True  # gradio's word for what looks as its parent does

    def preprocess(self, payload: float | None) -> float:
        return payload or 0


def field(one: Any, how: gr.State) -> Any:
    """The control of a setting; what happens when it is changed."""
    look: Any = {
        "label": one.name,
        "info": one.about.replace("None: ", "empty: "),  # "", not None, which keeps another's
        "elem_id": f"set-{one.name}",
        "min_width": 120,
        "interactive": True,  # gradio thinks that what is rendered late is an output
    }
    if one.kind == "choice":
        made: Any = gr.Dropdown(list(one.choices), value=one.value, **look)
    elif one.kind == "truth":
        made = gr.Checkbox(one.value, **look)
    else:
        made = gr.Textbox(one.text, max_lines=1, **look)
    # Not `change`: that is told of fields of the task before, too, whose place these take. An emptied text is told by blur alone.
    told = [made.input, made.blur] if one.kind not in ("choice", "truth") else [made.input]
    return gr.on(told, lambda said, known: {**known, one.key: said}, [made, how], how, **LAST)


def fields(task: str, how: gr.State) -> list:
    """The controls of a task: those that its file speaks of, and the others behind a lid; what happens when one is changed."""
    known = [one for one in P.settings("tasks", task) if one.kind != "file"]
    with gr.Row():
        changed = [field(one, how) for one in known if one.said]
    with gr.Accordion(
        "further settings", open=False, elem_id="further", visible=len(changed) < len(known)
    ):
        return changed + [field(one, how) for one in known if not one.said]


def number(name: str, value: int, low: int, high: int) -> gr.Number:
    look: Any = {"label": name, "elem_id": name, "precision": 0, "min_width": 90}
    return gr.Number(value, minimum=low, maximum=high, **look)


def listed(names: dict[str, str], label: str, value: str, name: str) -> gr.Dropdown:
    return gr.Dropdown(list(names), label=label, info=names[value], value=value, elem_id=name)


def blocks(models: Sequence[str]) -> gr.Blocks:
    """The page. models: priors beside the shipped ones."""
    priors = {Path(folder).name: folder for folder in models} | {name: name for name in P.models()}
    tasks = {name: ours(line) for name, line in P.tasks().items()}
    visitors, Session.priors = {}, priors

    def begin(request: gr.Request) -> tuple[Any, str]:
        visitors[request.session_hash] = s = Session()
        return s, SEND.format(s.token)

    def end(request: gr.Request) -> None:
        if session := visitors.pop(request.session_hash, None):
            session.close()

    def demonstrated(s: Session, name: str) -> None:
        s.look(Opened(Path(DEMOS[name].path), [DEMOS[name]]))

    with gr.Blocks(title="Palimpsest", analytics_enabled=False) as page:
        session, how = gr.State(), gr.State({})
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column(min_width=320):
                demo = gr.Dropdown(list(DEMOS), label="Scan", elem_id="demo")
                own = gr.HTML(js_on_load="element.onchange = (event) => page.send(event.target)")
                arrived, drawn = gr.Button(elem_id="arrived"), gr.Button(elem_id="drawn")
                k = Place(0, 1, step=1, label="Slice", visible=False, elem_id="slice")
                every = gr.Checkbox(label="restore all slices", visible=False)
                with gr.Row():
                    level = gr.Number(label="Level", min_width=140, elem_id="Level")
                    width = gr.Number(label="Window", min_width=140, elem_id="Window")
                scan = gr.HTML(js_on_load="page.drawing(element)")
            with gr.Column(min_width=320):
                task = listed(tasks, "What happened to it", BEGIN[0], "task")
                label = f"{MEASURED} (else that is simulated)"
                measured = gr.Checkbox(label=label, elem_id="measured")

                @gr.render(inputs=task, show_progress="hidden")
                def controls(task: str) -> None:
                    for changed in fields(task, how):
                        told = changed.then(spelled, asked, code, **HIDDEN)
                        told.then(estimate, asked, paced, **TIMED)

                solver = listed(SOLVERS, "How", BEGIN[1], "solver")
                first = next(iter(priors)) if models else "demo-pixel"
                prior = gr.Dropdown(list(priors), label="Prior", value=first, elem_id="prior")
                with gr.Row():
                    steps = number("steps", own_steps(BEGIN[1]), 1, 2000)
                    draws, seed = number("draws", 1, 1, 16), number("seed", 0, 0, 2**31)
                with gr.Row():
                    go = gr.Button("Restore", variant="primary", elem_id="go")
                    halt = gr.Button("Stop", elem_id="stop")
                paced = gr.Markdown(elem_id="pace")
                with gr.Accordion("The same without this page", open=False, elem_id="without"):
                    code = gr.Textbox(lines=5, show_label=False, buttons=["copy"], elem_id="code")
        out = gr.HTML(elem_id="out")
        at = Place(0, 1, step=1, label="Profile of row", visible=False, elem_id="row")
        line = gr.HTML(elem_id="profile")

        asked = Answers(session, k, every, task, measured, how, solver, prior, steps, draws, seed)
        seen = [session, k, level, width, task]
        fresh = [demo, k, every, level, width, task, measured]
        begun = page.load(begin, None, [session, own], **HIDDEN)
        page.unload(end)
        demos = [
            one(demonstrated, [session, demo], None, **HIDDEN) for one in (begun.then, demo.input)
        ]
        for came in (*(one.then for one in demos), arrived.click):
            there = came(chosen, [session, task], [*fresh, paced, out, at, line], **HIDDEN)
            there = there.then(show, seen, scan, **HIDDEN).then(spelled, asked, code, **HIDDEN)
            there.then(estimate, asked, paced, show_progress="hidden", **WORK)
        gr.on([k.input, level.input, width.input, task.change], show, seen, scan, **LAST)
        task.change(lambda name: ({}, gr.update(info=tasks[name])), task, [how, task], **HIDDEN)
        solver.change(own_steps, solver, steps, **HIDDEN)
        solver.change(lambda name: gr.update(info=SOLVERS[name]), solver, solver, **HIDDEN)
        changes = [drawn.click, *(one.input for one in (every, task, measured, solver))]
        changes += [prior.input, steps.change, draws.input]
        gr.on([*changes, task.change], estimate, asked, paced, **TIMED)
        gr.on([*changes, task.change, seed.input, k.input], spelled, asked, code, **LAST)

        # Before the queue: who waits may stop too.
        pressed = go.click(
            lambda s: (s.stop.clear(), gr.update(interactive=False))[1], session, go, **HIDDEN
        )
        ran = pressed.then(
            restore, [level, width, *asked], [out, at, line], show_progress_on=out, **WORK
        )
        ran.then(lambda: gr.update(interactive=True), None, go, **HIDDEN)
        halt.click(lambda s: s.stop.set(), session, None, **HIDDEN)
        at.input(profile, [session, at], line, **LAST)
    return page.queue(max_size=32)
