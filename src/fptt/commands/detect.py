"""fptt detect SOURCE [options]"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from threading import Event

from PIL import Image
from torch import Tensor

from fptt.commands.common import show
from fptt.commands.detectors import described, open_detector
from fptt.commands.found import COLUMNS, Report
from fptt.data.store import bar
from fptt.detection.drawing import drawn
from fptt.detection.video import PICTURES, Frame, Source, open_source, picture, pictures, video_writer
from fptt.errors import InputError
from fptt.files import replacing
from fptt.training.loop import stop_on_signal


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="fptt detect",
        description="Find objects with a trained SPYv4 in an image, the images of a folder, a video, a camera or a stream, and "
        "draw them. An image is looked at for some time steps; a video at one step a frame, the network's state carried on.",
    )
    add = parser.add_argument
    add("source", help="image, folder of images, video file, number of a camera, or address of a stream (rtsp://, http://)")
    add("--weights", type=Path, help="file of weights or run folder of 'fptt train voc'; default: the weights of this package")
    add("--steps", type=int, help="time steps for an image; default: those of the training")
    add("--steps-per-frame", type=int, default=1, metavar="N", help="time steps for a frame of a video (1)")
    add("--fresh", action="store_true", help="start the network anew at every frame of a video")
    add("--every", type=int, default=1, metavar="N", help="look at every N-th frame of a video only (1)")
    add("--threshold", type=float, help="least score of a detection; default: that of the weights")
    add("--iou", type=float, default=0.45, help="of two boxes of one class that overlap by more, one is left out (0.45)")
    add("--out", type=Path, help="image, video (.mp4) or folder to write; default NAME-detected beside the source")
    add("--no-save", action="store_true", help="write no image and no video")
    add("--show", action="store_true", help="show a window, and save only where --out says so; q ends")
    add("--csv", type=Path, help=f"file to write, a row for each detection: {','.join(COLUMNS)}")
    add("--json", action="store_true", help="print JSON: a line for each image or frame, then the summary")
    add("--device", default="cpu", help="torch device (cpu)")
    add("--precision", choices=("float32", "bfloat16"), default="float32", help="of the convolutions (float32)")
    add("--compile", action="store_true", help="compile the network: a slow start, then faster")
    options = parser.parse_args(arguments)
    check(options)
    given = Path(options.source)
    video, images = None, list[Path]()
    if given.is_dir():
        images = pictures(given)
    elif given.suffix.lower() in PICTURES and "://" not in options.source:
        images = [given]
    else:
        video = open_source(options.source)
    places = outputs(options, video, images)
    check_places([*places, *([options.csv] if options.csv else [])], [given, *images])
    detector = open_detector(
        options.weights, options.device, precision=options.precision, compile=options.compile, iou=options.iou
    )
    detector.threshold = options.threshold or detector.threshold
    about = described(detector, options.weights)
    if not options.json:
        print(about)
    with stop_on_signal() as stop, Report(options, detector) as report:
        if video is not None:
            film(video, places, report, stop)
        unreadable = album(images, places, report, stop)
    saved = {"saved": str(places[0] if video or not given.is_dir() else places[0].parent)} if places else {}
    missed = {"unreadable": unreadable} if unreadable else {}
    told = {"source": video.shown if video else options.source, "weights": about, **report.summary(), **missed, **saved}
    show(told, options.json)
    return 1 if unreadable else 0


def check(options: argparse.Namespace) -> None:
    for name in ("steps", "steps_per_frame", "every"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    for name in ("threshold", "iou"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1:
            raise InputError(f"--{name} must lie between 0 and 1, got {value}")
    if options.no_save and options.out:
        raise InputError("--out says where to save, --no-save not to: give one of the two")


def outputs(options: argparse.Namespace, video: Source | None, images: list[Path]) -> list[Path]:
    """The file to write for the video, or one for each of the images; none where nothing is to be saved."""
    if options.no_save or (options.show and not options.out):
        return []
    given = Path(options.source)
    kinds = PICTURES if video is None else (".mp4",)
    if video is not None:
        places = [options.out or (given.parent if given.exists() else Path()) / f"{video.name}-detected.mp4"]
    elif given.is_dir():
        folder = options.out or given.resolve().with_name(f"{given.resolve().name}-detected")
        unique = len({path.stem for path in images}) == len(images)
        places = [folder / f"{path.stem if unique else path.name}-detected.png" for path in images]
    else:
        places = [options.out or given.with_name(f"{given.stem}-detected.png")]
    for place in places:
        if place.suffix.lower() not in kinds:
            raise InputError(f"--out {place}: what is written ends in {' or '.join(kinds)}")
    return places


def check_places(places: list[Path], sources: list[Path]) -> None:
    """Raises InputError where what is written would take the place of what is read, or of something else that is written."""
    taken = {source.resolve() for source in sources}
    for place in places:
        if place.resolve() in taken:
            raise InputError(f"{place} is already a source, or written already: give another --out or --csv")
        taken.add(place.resolve())


def album(images: list[Path], places: list[Path], report: Report, stop: Event) -> int:
    """Look at the images of files, and save them where ``places`` says so, until ``stop`` is set; how many are unreadable.

    Raises InputError where all are.
    """
    unreadable = 0
    for number, path in enumerate(images):
        try:
            image = picture(path)
        except InputError as error:
            unreadable += 1
            if unreadable == len(images):
                raise
            print(f"fptt: {error}", file=sys.stderr)
            continue
        still(path, image, places[number : number + 1], report)
        if stop.is_set() or report.closed:
            break
    return unreadable


def still(path: Path, image: Tensor, places: list[Path], report: Report) -> None:
    """Look at the image of a file, and save it where ``places`` says so."""
    steps = report.options.steps or report.detector.steps
    found, _ = report.look(str(path), Frame(image, 0, 0.0), None, steps)
    if not report.options.json:
        print(f"{path}: {report.sentence(found)}")
    if places or report.window:
        image = drawn(image, found, report.detector.names, report.caption(steps))
        for place in places:
            save(image, place)
        report.display(image, wait=True)


def save(image: Tensor, place: Path) -> None:
    kind = Image.registered_extensions()[place.suffix.lower()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {place.parent} ({error.strerror}): give another --out") from None
    with replacing(place) as temporary:
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(temporary, format=kind)


def film(video: Source, places: list[Path], report: Report, stop: Event) -> None:
    """Look at the frames of a video, and save them where ``places`` says so, until its end or until ``stop`` is set."""
    options = report.options
    state, add = None, None
    with ExitStack() as stack:
        advance = stack.enter_context(bar("detecting", "frames", video.total))
        for count, frame in enumerate(video.frames):
            if count % options.every == 0:
                found, state = report.look(video.shown, frame, None if options.fresh else state, options.steps_per_frame)
            if places or report.window:
                image = drawn(frame.image, found, report.detector.names, report.caption())
                if places and add is None:
                    add = stack.enter_context(video_writer(places[0], video.rate, *image.shape[1:]))
                if add is not None:
                    add(image, frame.seconds)
                report.display(image)
            advance()
            if stop.is_set() or report.closed:
                break
