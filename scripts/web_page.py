"""The controls and pictures of the page that `web.py` serves. What they ask for is done by palimpsest.py."""

import html
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

import palimpsest as P
from data import manifest
from data.opened import Opened
from solvers.run.figures import STYLE, picture, uri
from solvers.run.flags import DEMO

TAKEN = ("result", "panel", "report")
THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = f"""{STYLE} .refused {{ color: #d9480f; font-weight: 600 }} progress {{ width: 100% }} .take a {{ margin-right: 1em }}
.mask {{ position: relative; line-height: 0; width: fit-content }} #arrived, #drawn {{ display: none }}
.mask canvas {{ position: absolute; inset: 0; width: 100%; height: 100%; opacity: .75; cursor: crosshair; touch-action: none }}"""
HEAD = f"<script>{Path(__file__).with_name('web.js').read_text()}</script>"
ABOUT = "# Palimpsest\n**Research use, not for diagnosis.** A restored image is an estimate: parts may be missing or invented."
SEND = "<label>or your own: DICOM, a series as ZIP, NIfTI, NRRD, TIFF, PNG, NPY <input id=file type=file></label>"
DEMOS = {row.image_id: row for row in manifest.read(DEMO)}
TAKE = "".join(f"<a id=take-{what} href='/take/TOKEN/{what}' download>{what}</a>" for what in TAKEN)
TASKS, SOLVERS = (
    P.tasks(),
    {name: line for name, line in P.solvers().items() if not name.startswith("prior")},
)
STEPS = {
    name: next(int(one.value) for one in P.settings("solvers", name) if one.name == "steps")
    for name in SOLVERS
}
loaded = lru_cache(maxsize=2)(P.load)
quick: Any = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
last: Any = {"trigger_mode": "always_last", **quick}
work: Any = {
    "concurrency_limit": 1,
    "concurrency_id": "work",
    "api_visibility": "private",
}  # one at a time


@lru_cache(maxsize=256)
def pace(path: Path, prior: str, overrides: Sequence[str], **asked: Any) -> float:
    """Seconds a step."""
    return P.estimate(path, loaded(prior), overrides=overrides, steps=10, **asked) / 10


def ends(level: float | None, width: float | None) -> tuple[float, float] | None:
    """What is shown as black and as white; None where the fields do not say it."""
    return (
        None if level is None or not width or width < 0 else (level - width / 2, level + width / 2)
    )


def blocks(sessions: Any, models: Sequence[str]) -> gr.Blocks:
    """The page. sessions: makes what a visitor has. models: priors beside the shipped ones."""
    priors = {Path(folder).name: folder for folder in models} | {name: name for name in P.models()}
    visitors: dict[str | None, Any] = {}

    def words(
        s: Any,
        k: float,
        every: bool,
        task: str,
        measured: bool,
        how: Mapping,
        solver: str,
        model: str,
        *n: float,
    ) -> dict:
        """What is asked of P.restore. Names are those of the lists and settings the task's own: nothing else is passed on."""
        known = P.settings("tasks", task)
        changed = [
            f"{one.key}={how[one.key]}"
            for one in known
            if one.kind != "file" and how.get(one.key) is not None
        ]
        changed += [
            f"{one.key}={s.folder / 'mask.png'}"
            for one in known
            if one.kind == "file" and one.name == "mask"
        ]
        slices = {} if every or len(s.scan.rows) == 1 else {"slice_range": f"{int(k)}:{int(k) + 1}"}
        window = {"window": "{:g}:{:g}".format(*w)} if (w := s.scan.rows[0].window) else {}
        given = {"prior": priors[model], "task": task, "solver": solver}
        given |= {
            name: int(one) for name, one in zip(("steps", "draws", "seed"), n) if one is not None
        }
        return (
            given
            | window
            | slices
            | ({"measurements": True} if measured else {})
            | {"overrides": changed}
        )

    def spelled(s: Any, *controls: Any) -> str:
        asked = words(s, *controls)
        asked["overrides"] = [word.replace(f"{s.folder}/", "") for word in asked["overrides"]]
        asked["prior"] = Path(asked["prior"]).name
        call = ", ".join(f"{key}={value!r}" for key, value in asked.items())
        name = (
            s.scan.path.name
            if s.scan.path.is_relative_to(s.folder)
            else f"models/demo-data/{s.scan.path.name}"
        )
        return f"{P.command(name, **asked)}\n\nimport palimpsest as P\nresult = P.restore({name!r}, {call})"

    def estimate(s: Any, *controls: Any) -> str:
        try:
            asked = words(s, *controls)
            steps, overrides = (
                asked.pop("steps", STEPS[asked["solver"]]),
                tuple(asked.pop("overrides")),
            )
            asked.pop("seed", 0)
            return f"about **{pace(s.scan.path, overrides=overrides, **asked) * steps:.0f} s** on this computer"
        except Exception as error:
            return f"<span class=refused>{html.escape(s.said(error))}</span>"

    def begin(request: gr.Request) -> tuple[Any, str]:
        visitors[request.session_hash] = session = sessions()
        return (
            session,
            f"<div data-token='{session.token}'><p id=said class=refused role=alert></p></div>",
        )

    def end(request: gr.Request) -> None:
        if session := visitors.pop(request.session_hash, None):
            session.close()

    def chosen(s: Any, name: str = "") -> tuple:
        """A scan has come: its slices, and the window it is looked at through."""
        if name:
            s.look(Opened(Path(DEMOS[name].path), [DEMOS[name]]))
        several, middle = len(s.scan.rows) > 1, len(s.scan.rows) // 2
        _, low, high = s.scan.look(middle)
        slices = gr.update(maximum=max(len(s.scan.rows) - 1, 1), value=middle, visible=several)
        return (
            slices,
            gr.update(visible=several),
            (low + high) / 2,
            high - low,
            "",
            gr.update(visible=False),
            "",
        )

    def show(s: Any, k: float, level: float, width: float, task: str) -> str:
        pixels, *own = s.scan.look(int(k))
        shown, (h, w) = (
            uri(picture(pixels.numpy(), *(ends(level, width) or own))),
            pixels.shape[-2:],
        )
        masked = any(one.name == "mask" for one in P.settings("tasks", task) if one.kind == "file")
        canvas = (
            f"<canvas id=hole data-scan={s.scans} width={w} height={h}></canvas>" if masked else ""
        )
        hint = (
            "draw over what was not measured; a double click clears it"
            if masked
            else f"{w} × {h} pixels"
        )
        return f"<small>{hint}</small><div class=mask><img class=pic src='{shown}' alt='the scan'>{canvas}</div>"

    def restore(s: Any, level: float, width: float, *controls: Any) -> Iterator[tuple]:
        hidden, seen = gr.update(visible=False), None
        try:
            for seen in P.follow(s.scan.path, stop=s.stop, **words(s, *controls)):
                yield ("" if isinstance(seen, list | P.Result) else seen.html()), hidden, ""
            s.result = seen[0] if isinstance(seen, list) else seen
            rows, links = s.result.middle.image.shape[-2], TAKE.replace("TOKEN", s.token)
            shown = f"{s.result.html(ends(level, width))}<p class=take>Download: {links}</p>"
            yield shown, gr.update(visible=True, maximum=rows - 1, value=rows // 2), ""
        except P.Stopped:
            yield f"<p role=status id=stopped>Stopped.</p>{seen.html() if seen else ''}", hidden, ""
        except Exception as error:
            yield f"<p class=refused role=alert>{html.escape(s.said(error))}</p>", hidden, ""

    with gr.Blocks(title="Palimpsest", analytics_enabled=False) as page:
        session, how = gr.State(), gr.State({})
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column(min_width=320):
                token = gr.HTML()
                demo = gr.Dropdown(
                    list(DEMOS), label="Scan", value=next(iter(DEMOS)), elem_id="demo"
                )
                gr.HTML(
                    SEND,
                    js_on_load="element.addEventListener('change', (event) => page.send(event.target))",
                )
                arrived, drawn = gr.Button(elem_id="arrived"), gr.Button(elem_id="drawn")
                k = gr.Slider(0, 1, step=1, label="Slice", visible=False, elem_id="slice")
                every = gr.Checkbox(label="restore all slices", visible=False)
                with gr.Row():
                    level, width = (
                        gr.Number(label=name, min_width=140, elem_id=name)
                        for name in ("Level", "Window")
                    )
                scan = gr.HTML(js_on_load="page.drawing(element)")
            with gr.Column(min_width=320):
                task, solver = (
                    gr.Dropdown(
                        list(names),
                        label=label,
                        info=names[value],
                        value=value,
                        elem_id=id,
                        render=False,
                    )
                    for names, label, value, id in (
                        (TASKS, "What happened to it", "super_resolution", "task"),
                        (SOLVERS, "How", "pnp", "solver"),
                    )
                )
                task.render()
                measured = gr.Checkbox(
                    label="this is what was measured (else that is simulated)", elem_id="measured"
                )

                @gr.render(inputs=task, show_progress="hidden")
                def controls(task: str) -> None:
                    known = [one for one in P.settings("tasks", task) if one.kind != "file"]
                    with gr.Row():
                        for one in filter(lambda one: one.said, known):
                            field(one, how)
                    with gr.Accordion(
                        "further settings", open=False, visible=not all(one.said for one in known)
                    ):
                        for one in filter(lambda one: not one.said, known):
                            field(one, how)

                solver.render()
                model = gr.Dropdown(
                    list(priors),
                    label="Prior",
                    value=next(iter(priors)) if models else "demo-pixel",
                )
                with gr.Row():
                    steps, draws, seed = (
                        gr.Number(
                            value,
                            label=name,
                            minimum=least,
                            maximum=most,
                            precision=0,
                            min_width=90,
                            elem_id=name,
                        )
                        for name, value, least, most in (
                            ("steps", 20, 1, 2000),
                            ("draws", 1, 1, 16),
                            ("seed", 0, 0, 2**31),
                        )
                    )
                with gr.Row():
                    go, halt = (
                        gr.Button("Restore", variant="primary", elem_id="go"),
                        gr.Button("Stop", elem_id="stop"),
                    )
                paced = gr.Markdown(elem_id="pace")
                with gr.Accordion("The same without this page", open=False, elem_id="without"):
                    code = gr.Textbox(lines=5, show_label=False, buttons=["copy"], elem_id="code")
        out = gr.HTML(elem_id="out")
        at = gr.Slider(0, 1, step=1, label="Profile of row", visible=False, elem_id="row")
        line = gr.HTML(elem_id="profile")

        asked = [session, k, every, task, measured, how, solver, model, steps, draws, seed]
        fresh = [k, every, level, width, out, at, line]
        seen = [session, k, level, width, task]
        begun = page.load(begin, None, [session, token], **quick)
        for came, given in (
            (begun.then, [session, demo]),
            (demo.input, [session, demo]),
            (arrived.click, session),
        ):
            there = (
                came(chosen, given, fresh, **quick)
                .then(show, seen, scan, **quick)
                .then(spelled, asked, code, **quick)
            )
            there.then(estimate, asked, paced, show_progress="hidden", **work)
        page.unload(end)
        gr.on([k.change, level.change, width.change, task.change], show, seen, scan, **last)
        task.change(lambda name: ({}, gr.update(info=TASKS[name])), task, [how, task], **quick)
        solver.change(
            lambda name: (STEPS[name], gr.update(info=SOLVERS[name])),
            solver,
            [steps, solver],
            **quick,
        )
        changes = [*(control.change for control in asked[2:-1]), drawn.click]
        gr.on(
            changes,
            estimate,
            asked,
            paced,
            trigger_mode="always_last",
            show_progress="hidden",
            **work,
        )
        gr.on([*changes, seed.change, k.change], spelled, asked, code, **last)
        pressed = go.click(
            lambda s: s.stop.clear(), session, None, **quick
        )  # before the queue: who waits may stop too
        pressed.then(restore, [session, level, width, *asked[1:]], [out, at, line], **work)
        halt.click(lambda s: s.stop.set(), session, None, **quick)
        at.change(
            lambda s, row: s.result.profile(int(row)) if s.result else "",
            [session, at],
            line,
            **last,
        )
    return page.queue(max_size=32)


def field(one: Any, how: gr.State) -> None:
    """The control of a setting."""
    own: Any = {"choice": {"choices": list(one.choices)}, "whole": {"precision": 0}}.get(
        one.kind, {}
    )
    kind: Any = {"choice": gr.Dropdown, "truth": gr.Checkbox}.get(one.kind, gr.Number)
    look: Any = {
        "label": one.name,
        "info": one.about or None,
        "elem_id": f"set-{one.name}",
        "min_width": 120,
    }
    made = kind(
        value=one.value, interactive=True, **look, **own
    )  # gradio thinks that what is rendered late is an output
    made.change(
        lambda value, known: {**known, one.key: value},
        [made, how],
        how,
        queue=False,
        api_visibility="private",
    )
