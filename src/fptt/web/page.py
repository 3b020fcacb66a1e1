"""The page: what is on it, and what happens when something is dropped, moved or pressed."""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData
from PIL import Image

from fptt.detection.looks import LEAST
from fptt.errors import InputError
from fptt.web import views
from fptt.web.viewer import Film, Pixels, Seen, Viewer, opened

VIDEOS = [".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"]
STEPS = 32  # of an image, at most, unless the network was trained for more
FRAMES, MOST_FRAMES = 200, 1000  # of a video: at first, and at most
QUALITY = 90  # of pictures sent, as JPEG
PRIVATE: Any = {"api_visibility": "private"}  # for the page alone
QUIET: Any = {"show_progress": "hidden", **PRIVATE}
NEWEST: Any = {"trigger_mode": "always_last", **QUIET}  # while a slider moves
NETWORK: Any = {"concurrency_id": "network", "concurrency_limit": 1, **PRIVATE}  # others wait
WIDE: Any = {"scale": 6, "min_width": 320}  # of the columns
NARROW: Any = {"scale": 3, "min_width": 250}
OTHER: Any = {"scale": 4, "min_width": 300}


class Page:
    """``blocks`` is the page of a ``viewer``, whose detector's file is called ``weights``."""

    def __init__(self, viewer: Viewer, weights: str):
        self.viewer, self.detector = viewer, viewer.detector
        with gr.Blocks(title="fptt web", analytics_enabled=False, delete_cache=(3600, 86400)) as self.blocks:
            html(views.about(self.detector, weights))
            for name, tab in (("Image", self.image), ("Video", self.video), ("Camera", self.camera)):
                with gr.Tab(name), gr.Row():
                    tab()
            html(views.note("Nothing leaves the machine that runs fptt. It deletes what it was given when it stops."))

    def image(self) -> None:
        seen = gr.State()
        with gr.Column(**NARROW):
            threshold, iou = self.thresholds()
            steps = gr.Slider(1, max(STEPS, self.detector.steps), self.detector.steps, step=1, label="Time steps")
        with gr.Column(**WIDE, elem_classes="fptt-first"):
            image = picture(
                label="Image",
                sources=["upload", "clipboard"],
                placeholder="# Drop an image here\nor click to choose one",
                alt_text="The image with its detections, which the table lists",
                buttons=["fullscreen"],
                elem_classes="fptt-picture",
            )
            table = html()
        layer, cells, rates = self.neurons()
        network: Any = {"show_progress_on": image, **NETWORK}
        asked, shown = [seen, threshold, iou, layer], [image, table, cells, rates]
        for event in (
            image.upload(self.look, [image, steps], seen, **network),
            steps.change(self.look_again, [seen, steps], seen, trigger_mode="always_last", **network),
        ):
            event.success(self.show, asked, shown, **QUIET)
            event.failure(lambda: (None, *self.show(None)), None, [seen, *shown], **QUIET)
        # the picture is gone already: an answer that said so could come after the next one has been dropped
        image.clear(lambda: (None, *self.show(None)[1:]), None, [seen, *shown[1:]], **QUIET)
        self.on_change(asked, shown)

    def video(self) -> None:
        film = gr.State()
        with gr.Column(**NARROW):
            threshold, iou = self.thresholds()
            most = gr.Slider(10, MOST_FRAMES, FRAMES, step=10, label="Most frames")
            stop = gr.Button("Stop", visible=False)
        with gr.Column(**WIDE, elem_classes="fptt-first"):
            file = gr.File(label="Video", file_types=VIDEOS, height=220)
            progress = html()
            with gr.Column(visible=False) as now:
                live = picture(label="Now", alt_text="The present frame with its detections", interactive=False, buttons=[])
            clip = gr.Video(label="Found, one time step a frame", interactive=False, visible=False)
        with gr.Column(**OTHER):
            course, counts = html(), html()
        chosen, shown = [film, threshold, iou], [film, now, clip, stop, progress, course, counts]
        cut: Any = {"show_progress_on": progress, **PRIVATE}
        watching = file.upload(self.watch, [file, most, threshold, iou], [live, *shown], show_progress="hidden", **NETWORK)
        watching.success(self.cut, chosen, shown, **cut)
        watching.failure(self.cut, chosen, shown, **cut)
        stop.click(self.stop, film, None, **QUIET)
        file.clear(self.drop, film, shown, **QUIET)
        for slider in (threshold, iou):
            slider.release(self.cut, chosen, shown, **cut)

    def camera(self) -> None:
        seen = gr.State()
        with gr.Column(**NARROW):
            mirror = gr.WebcamOptions(mirror=False)
            camera = gr.Image(label="Camera", sources=["webcam"], streaming=True, webcam_options=mirror, buttons=[])
            threshold, iou = self.thresholds()
        with gr.Column(**WIDE):
            image = picture(
                label="Found, one time step a picture",
                alt_text="The camera's picture with its detections, which the table lists",
                interactive=False,
                buttons=["fullscreen"],
                elem_classes="fptt-picture",
            )
            table = html()
        layer, cells, rates = self.neurons()
        asked, shown = [seen, threshold, iou, layer], [image, table, cells, rates]
        stream: Any = {"stream_every": 0.1, "time_limit": None, "concurrency_limit": None, **QUIET}
        camera.stream(self.step, [camera, *asked], [seen, *shown], **stream)
        self.on_change(asked, shown)

    def thresholds(self) -> tuple[gr.Slider, gr.Slider]:
        threshold = gr.Slider(LEAST, 0.95, max(LEAST, self.detector.threshold), step=0.01, label="Least score")
        iou = gr.Slider(0.05, 0.95, self.detector.iou, step=0.05, label="Overlap (IoU)")
        return threshold, iou

    def neurons(self) -> tuple[gr.Dropdown, gr.Image, gr.HTML]:
        """Layer, spike map and firing rates."""
        with gr.Column(visible=bool(self.viewer.layers), **OTHER):
            choices = [(f"{name}: {rows} x {columns} cells", name) for name, (rows, columns) in self.viewer.layers.items()]
            layer = gr.Dropdown(choices, value=next(iter(self.viewer.layers), None), label="Layer", container=False)
            cells = picture(
                label="Where its neurons fired",
                alt_text="The layer's spikes over the image",
                interactive=False,
                buttons=["fullscreen"],
                elem_classes="fptt-map",
            )
            rates = html()
        return layer, cells, rates

    def on_change(self, asked: list[Any], shown: list[Any]) -> None:
        """What was seen is shown anew, and the network does not run."""
        seen, threshold, iou, layer = asked
        for slider in (threshold, iou):
            slider.change(self.found, [seen, threshold, iou], shown[:2], **NEWEST)
        layer.change(self.spikes, [seen, layer], shown[2], **QUIET)

    @contextmanager
    def told(self) -> Iterator[None]:
        """An InputError becomes a line on the page, in which a file is called as the person called it."""
        try:
            yield
        except InputError as error:
            message = re.sub(re.escape(str(self.viewer.folder)) + r"/\w+/", "", str(error))
            raise gr.Error(escape(message), print_exception=False) from None

    def look(self, file: str | None, steps: float) -> Seen | None:
        if file is None:  # removed before it was looked at
            return None
        with self.told():
            return self.viewer.look(opened(Path(file)), int(steps))

    def look_again(self, seen: Seen | None, steps: float) -> Seen | None:
        return seen and self.viewer.look(seen.image, int(steps))

    def step(self, pixels: Pixels, before: Seen | None, *choice: Any) -> tuple[Any, ...]:
        seen = self.viewer.camera(pixels, before)
        return seen, *self.show(seen, *choice)

    def show(self, seen: Seen | None, threshold: float = 0.0, iou: float = 0.0, layer: str | None = None) -> tuple[Any, ...]:
        """Image, table, spike map and firing rates."""
        rates = views.rates(seen.look.rates, seen.look.firing_rate) if seen else ""
        return *self.found(seen, threshold, iou), self.spikes(seen, layer), rates

    def found(self, seen: Seen | None, threshold: float, iou: float) -> tuple[Pixels | None, str]:
        return self.viewer.found(seen, threshold, iou) if seen else (None, "")

    def spikes(self, seen: Seen | None, layer: str | None) -> Pixels | None:
        return self.viewer.spikes(seen, layer) if seen and layer else None

    def watch(self, file: str, most: float, threshold: float, iou: float) -> Iterator[tuple[Any, ...]]:
        """Shows the frames of a video while they are looked at: the present one, then what ``cut`` gives."""
        yield None, *self.drop()
        with self.told():
            for film, seen in self.viewer.film(Path(file), int(most)):
                shown, _ = self.viewer.found(seen, threshold, iou)
                told = views.note(f"Frame {len(film.looks)} of {min(int(most), film.total or int(most))}")
                visible = gr.update(visible=True)
                yield shown, film, visible, gr.skip(), visible, told, gr.skip(), gr.skip()

    def stop(self, film: Film | None) -> None:
        if film:
            film.stopped = True

    def cut(self, film: Film | None, threshold: float, iou: float) -> tuple[Any, ...]:
        """Shows what was seen of a video as a clip: film, present frame, clip, button, note, course and counts."""
        if film is None or film.dropped:
            return self.drop(film)
        if not film.ended:
            return (gr.skip(),) * 7
        with self.told():
            path, course, counts = self.viewer.clip(film, threshold, iou)
        number, hidden = len(film.looks), gr.update(visible=False)
        told = views.note(f"{'All' if film.total == number else 'The first'} {number} frames, one time step each.")
        return film, hidden, gr.update(value=str(path), visible=True), hidden, told, course, counts

    def drop(self, film: Film | None = None) -> tuple[Any, ...]:
        """Shows nothing of a video, and no more of it."""
        if film:
            film.stopped = film.dropped = True
        hidden = gr.update(visible=False)
        return None, hidden, gr.update(value=None, visible=False), hidden, "", "", ""


def html(text: str = "") -> gr.HTML:
    return gr.HTML(text, apply_default_css=False)


def picture(**options: Any) -> gr.Image:
    """A picture that is given as the file that it is, and shown without a file: a camera's would be many."""
    image: Any = gr.Image(**options)
    image.preprocess = lambda given: given and given.path
    image.postprocess = as_data
    return image


def as_data(pixels: Pixels | None) -> ImageData | None:
    """A picture as JPEG in an address that holds it."""
    if pixels is None:
        return None
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=QUALITY)
    return ImageData(url=f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", orig_name="detected.jpg")
