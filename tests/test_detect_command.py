"""fptt detect, from images, videos and streams to pictures, tables and lines of JSON."""

import csv
import functools
import http.server
import json
import os
import shutil
import signal
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

import voc_files
from detectors import NAMES, detector, finding
from fptt import cli
from fptt.commands import detect
from fptt.detection import video
from fptt.detection.detector import Detector
from fptt.files import replacing
from videos import read_video, write_video

av = pytest.importorskip("av")
pytest.importorskip("safetensors")
pytest.importorskip("torchvision")


@pytest.fixture
def weights(tmp_path):
    detector().save(tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.fixture
def noise(tmp_path):
    """An image of noise, in which the detector finds something."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def lines(out):
    *rows, summary = [json.loads(line) for line in out.splitlines()]
    return rows, summary


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_an_image_is_saved_with_its_boxes_and_told(run, weights, noise, tmp_path):
    status, out, err = run("detect", noise, "--weights", weights, "--json", "--csv", "t.csv")
    assert status == 0, err
    [row], summary = lines(out)
    [expected] = Detector.load(weights)([video.picture(noise)])
    assert row["source"] == str(noise) and (row["frame"], row["time_s"]) == (0, 0.0) and 0 < row["firing_rate"] < 1
    assert [thing["class"] for thing in row["detections"]] == [NAMES[label] for label in expected.labels]
    assert [thing["score"] for thing in row["detections"]] == pytest.approx(expected.scores.tolist(), abs=1e-4)
    np.testing.assert_allclose([thing["box"] for thing in row["detections"]], expected.boxes.numpy(), atol=0.01)
    assert summary["frames"] == 1 and summary["detections"] == len(expected.labels) == sum(summary["classes"].values()) > 0
    assert summary["firing_rate"] == row["firing_rate"] and summary["frames_per_second"] > 0
    assert summary["saved"] == str(tmp_path / "noise-detected.png")
    picture = np.array(Image.open(summary["saved"]))
    assert picture.shape == (50, 80, 3) and (picture != np.array(Image.open(noise))).mean() > 0.05

    with (tmp_path / "t.csv").open() as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == detect.COLUMNS and len(table) == len(row["detections"])
    for line, thing in zip(table, row["detections"], strict=True):
        assert (line["source"], line["frame"], line["class"]) == (str(noise), "0", thing["class"])
        assert [float(line[side]) for side in ("score", "x1", "y1", "x2", "y2")] == [thing["score"], *thing["box"]]


def test_in_words_it_names_the_weights_their_precision_and_what_it_found(run, weights, noise):
    status, out, _ = run("detect", noise, "--weights", weights, "--no-save", "--steps", "2", "--threshold", "0.6")
    first, second, *_ = out.splitlines()
    assert status == 0
    assert first.startswith(str(weights)) and "mean average precision 25.0 % on its test set" in first
    assert second.startswith(f"{noise}: ") and any(name in second for name in NAMES)
    assert float(second.split()[-1]) >= 0.6
    assert files(noise.parent) == ["noise.png", "w.safetensors"]


def test_the_number_of_steps_matters(run, weights, noise):
    found = {
        steps: lines(run("detect", noise, "--weights", weights, "--json", "--no-save", *words)[1])[0][0]["detections"]
        for steps, words in (("default", ()), (3, ("--steps", "3")), (1, ("--steps", "1")))
    }
    assert found["default"] == found[3] != found[1]


def test_a_folder_of_images(run, weights, noise, tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    image = Image.open(noise)
    image.save(folder / "b.png")
    turned = image.getexif()
    turned[0x0112] = 6  # to be shown turned a quarter to the right
    image.save(folder / "a.JPG", exif=turned)
    (folder / "notes.txt").write_text("no image")
    status, out, err = run("detect", folder, "--weights", weights, "--json")
    assert status == 0, err
    rows, summary = lines(out)
    assert [row["source"] for row in rows] == [str(folder / "a.JPG"), str(folder / "b.png")]
    assert summary["frames"] == 2 and files(folder) == ["a.JPG", "b.png", "notes.txt"]
    assert files(tmp_path / "album-detected") == ["a-detected.png", "b-detected.png"]
    assert Image.open(tmp_path / "album-detected" / "a-detected.png").size == (50, 80)
    assert run("detect", folder, "--weights", weights, "--out", "other")[0] == 0
    assert files(tmp_path / "other") == ["a-detected.png", "b-detected.png"]


def test_what_is_no_image_in_a_folder_is_told_and_left_out(run, weights, noise, tmp_path):
    folder = tmp_path / "album"
    (folder / "sub.jpg").mkdir(parents=True)
    (folder / "a.jpg").write_text("no picture")
    (folder / "._b.png").write_text("what a Mac leaves beside b.png")
    name = os.fsdecode(b"caf\xe9.png")  # no UTF-8
    shutil.copy(noise, folder / name)
    status, out, err = run("detect", folder, "--weights", weights, "--no-save", "--csv", "t.csv")
    assert status == 1 and "a.jpg is no readable image" in err and err.count("\n") == 1, err
    assert "caf\\udce9.png: " in out and "unreadable" in out
    assert b"caf\xe9.png,0,0.0," in (tmp_path / "t.csv").read_bytes()
    assert run("detect", folder, "--weights", weights, "--out", folder)[0] == 1
    status, _, err = run("detect", folder, "--weights", weights, "--out", folder)
    assert status == 2 and "caf\\udce9-detected.png is already a source" in err, (
        "what was written there is one of its images now"
    )


def test_a_video_carries_its_state_and_keeps_its_frames(run, weights, tmp_path):
    path = write_video(tmp_path / "clip.mp4")
    status, out, err = run("detect", path, "--weights", weights, "--json", "--csv", "t.csv")
    assert status == 0, err
    rows, summary = lines(out)
    assert [(row["frame"], row["time_s"]) for row in rows] == [(n, n / 10) for n in range(5)]
    one, state = Detector.load(weights), None
    for row, pixels in zip(rows, read_video(path)[0], strict=True):
        found, state = one.step(torch.from_numpy(pixels).permute(2, 0, 1), state)
        assert [thing["score"] for thing in row["detections"]] == pytest.approx(found.scores.tolist(), abs=1e-3)
        assert row["firing_rate"] > 0
    assert summary["frames"] == 5 and summary["saved"] == str(tmp_path / "clip-detected.mp4")
    frames, times = read_video(tmp_path / "clip-detected.mp4")
    assert frames.shape == (5, 48, 64, 3) and times == pytest.approx([n / 10 for n in range(5)], abs=1e-3)
    assert "clip-detected" not in [path.stem for path in tmp_path.iterdir() if path.suffix == ".tmp"]

    fresh = lines(run("detect", path, "--weights", weights, "--json", "--fresh", "--no-save")[1])[0]
    assert fresh[0] == rows[0] and fresh[4] != rows[4]
    deep = lines(run("detect", path, "--weights", weights, "--json", "--fresh", "--steps-per-frame", "2", "--no-save")[1])[0]
    assert deep[0] != rows[0]


def test_frames_between_those_looked_at_keep_the_last_boxes(run, tmp_path, monkeypatch):
    box = (40.0, 40.0, 200.0, 160.0)
    monkeypatch.setattr(detect, "open_detector", lambda *_, **__: finding([(*box, 0.9, 0)], 192, 256))
    path = write_video(tmp_path / "clip.mp4", [0] * 5, 192, 256)
    status, out, err = run("detect", path, "--every", "2", "--json", "--csv", "t.csv")
    assert status == 0, err
    rows, summary = lines(out)
    assert [row["frame"] for row in rows] == [0, 2, 4] and summary["detections"] == 3
    frames, _ = read_video(tmp_path / "clip-detected.mp4")
    assert len(frames) == 5
    for frame in frames:
        assert frame[80:120, 190:210].max() > 100, "the right side of the box"
        assert frame[80:120, 215:].max() < 30, "and black beside it"


def test_ctrl_c_completes_the_video_and_the_table(run, weights, tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", shades=[0] * 30)
    step, calls = Detector.step, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(Detector, "step", interrupted)
    status, out, err = run("detect", path, "--weights", weights, "--json", "--csv", "t.csv")
    assert status == 0, err
    assert lines(out)[1]["frames"] == 4
    assert len(read_video(tmp_path / "clip-detected.mp4")[0]) == 4
    assert (tmp_path / "t.csv").read_text().startswith("source,")


def test_a_stream_is_read_and_named_without_its_password(run, weights, tmp_path):
    write_video(tmp_path / "clip.mp4")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://me:secret@127.0.0.1:{server.server_port}/clip.mp4"
        status, out, err = run("detect", address, "--weights", weights, "--csv", "t.csv")
    finally:
        server.shutdown()
        server.server_close()
    assert status == 0, err
    port, table = server.server_port, (tmp_path / "t.csv").read_text()
    assert len(read_video(tmp_path / f"127-0-0-1-{port}-clip-mp4-detected.mp4")[0]) == 5
    assert f"127.0.0.1:{port}/clip.mp4" in out and "secret" not in out + table


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), replacing(path) as temporary:
            temporary.write_text("half")
            raise error
        assert files(tmp_path) == ["file"] and path.read_text() == "before"
    with replacing(path) as temporary:
        temporary.write_text("after")
    assert files(tmp_path) == ["file"] and path.read_text() == "after"


def broken(tmp_path, name):
    """A source that cannot be read."""
    path = tmp_path / name
    if name == "cut.mp4":  # its index is at the start, and its end is gone
        random = np.random.default_rng(0)
        with video.video_writer(path, Fraction(10), 128, 128) as add:
            for number in range(20):
                add(torch.from_numpy(random.integers(0, 256, (3, 128, 128)).astype(np.uint8)), number / 10)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    elif name == "half.mp4":
        path.write_bytes(write_video(path).read_bytes()[:700])
    elif name == "sound.wav":
        with av.open(str(path), "w") as file:
            stream = file.add_stream("pcm_s16le", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), layout="mono")
            sound.sample_rate = 8000
            file.mux(stream.encode(sound))
    elif name == "half.png":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3)).astype(np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif name == "folder":
        path.mkdir()
    elif name in ("text.jpg", "text.mp4"):
        path.write_text("no picture\n" * 100)
    elif name in ("empty.jpg", "empty.mp4"):
        path.touch()
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.jpg", "is no readable image (No such file or directory)"),
        ("empty.jpg", "is no readable image"),
        ("text.jpg", "is no readable image"),
        ("half.png", "is no readable image"),
        ("folder", "holds no image"),
        ("missing.mp4", "No such file or directory"),
        ("empty.mp4", "Invalid data"),
        ("text.mp4", "Invalid data"),
        ("half.mp4", "cannot read"),
        ("cut.mp4", "is truncated: only"),
        ("sound.wav", "has no pictures"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line_and_leaves_nothing(name, message, run, weights, tmp_path):
    path = broken(tmp_path, name)
    before = files(tmp_path)
    status, _, err = run("detect", path, "--weights", weights, "--csv", "t.csv")
    assert status == 2 and message in err and err.count("\n") == 1 and name in err, err
    assert files(tmp_path) == before


@pytest.mark.parametrize("address", ["rtsp://127.0.0.1:9/x", "http://me:secret@127.0.0.1:9/x.mp4", "nonsense://x"])
def test_a_stream_that_cannot_be_reached(address, run, weights):
    status, _, err = run("detect", address, "--weights", weights)
    assert status == 2 and "cannot read" in err and err.count("\n") == 1 and "secret" not in err


def test_a_camera_that_is_not_there(weights, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("cv2")
    status = cli.main(["detect", "97", "--weights", str(weights)])
    err = capfd.readouterr().err  # of OpenCV's own code, too
    assert status == 2 and err == "fptt: camera 97 is not there: try another number\n"
    assert not list(tmp_path.glob("camera*"))


def test_without_a_display_there_is_no_window(run, weights, noise, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    status, _, err = run("detect", noise, "--weights", weights, "--show")
    assert status == 2 and "--show needs a display" in err and err.count("\n") == 1
    monkeypatch.setenv("DISPLAY", ":0")

    def headless(*_):
        raise cv2.error("not implemented")

    monkeypatch.setattr(cv2, "namedWindow", headless)
    status, _, err = run("detect", noise, "--weights", weights, "--show")
    assert status == 2 and "--show needs an OpenCV with windows" in err and err.count("\n") == 1


def test_in_a_window_nothing_is_saved_and_q_ends(run, weights, tmp_path, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, image: shown.append(image))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 3 else -1)
    path = write_video(tmp_path / "clip.mp4")
    status, _, err = run("detect", path, "--weights", weights, "--show")
    assert status == 0, err
    assert [image.shape for image in shown] == [(48, 64, 3)] * 3
    assert files(tmp_path) == ["clip.mp4", "w.safetensors"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", "0"), "--steps must be at least 1"),
        (("--steps-per-frame", "0"), "--steps-per-frame must be at least 1"),
        (("--every", "0"), "--every must be at least 1"),
        (("--threshold", "1.5"), "--threshold must lie between 0 and 1"),
        (("--iou", "0"), "--iou must lie between 0 and 1"),
        (("--out", "x.mp4"), "--out x.mp4: what is written ends in .jpg or"),
        (("--out", "noise.png"), "noise.png is already a source"),
        (("--csv", "noise.png", "--no-save"), "noise.png is already a source, or written already: give another"),
        (("--out", "a.png", "--csv", "a.png"), "a.png is already a source, or written already"),
        (("--csv", ""), "cannot write a file without a name"),
        (("--csv", "noise.png/t.csv"), "cannot write noise.png/t.csv"),
        (("--out", "a.png", "--no-save"), "give one of the two"),
        (("--csv", "nowhere/t.csv"), "cannot write nowhere/t.csv"),
        (("--device", "nonsense"), "--device nonsense cannot be used"),
        (("--weights", "nowhere.safetensors"), "cannot read nowhere.safetensors"),
        (("--weights", "."), "not a run folder"),
    ],
)
def test_what_it_refuses(words, message, run, weights, noise):
    given = () if "--weights" in words else ("--weights", weights)
    status, _, err = run("detect", noise, *given, *words)
    assert status == 2 and message in err and err.count("\n") == 1, err
    assert files(noise.parent) == ["noise.png", "w.safetensors"]


def test_a_run_can_be_used_and_exported(run, noise, tmp_path, monkeypatch):
    monkeypatch.setenv("FPTT_CACHE", str(tmp_path / "cache"))
    own = voc_files.write(tmp_path / "own")
    small = ("--size", "32", "--width", "0.1", "--length", "2", "--batch-size", "2", "--epochs", "1", "--threads", "1")
    assert run("train", "voc", "--folder", own, *small, "--out", "r", "--json")[0] == 0
    words = ("detect", noise, "--json", "--no-save", "--threshold", "0.001", "--weights")
    status, out, err = run(*words, "r")
    assert status == 0, err
    [row], summary = lines(out)
    assert {thing["class"] for thing in row["detections"]} <= {"ant", "mole", "zebra"} and row["detections"]
    assert "r: 3 classes, 32 x 32 pixels, 2 steps an image" in summary["weights"]
    status, out, err = run("export", "r", "--out", "mine.safetensors", "--json")
    assert status == 0, err
    assert json.loads(out)["command"].startswith("fptt train voc")
    [exported], summary = lines(run(*words, "mine.safetensors")[1])
    assert [thing["class"] for thing in exported["detections"]][:1] == [thing["class"] for thing in row["detections"]][:1]
    assert exported["detections"][0]["score"] == pytest.approx(row["detections"][0]["score"], rel=0.05)
    assert "mean average precision" in summary["weights"]


def test_the_run_of_another_task_finds_no_objects(run, noise):
    assert run("train", "--epochs", "1", "--hidden", "8", "--batch-size", "400", "--out", "digits", "--json")[0] == 0
    status, _, err = run("detect", noise, "--weights", "digits")
    assert status == 2 and "task 'digits' of digits finds no objects" in err


@pytest.mark.parametrize("clip", ["bikes", "car-detection", "carphone_pristine"])
def test_real_videos(clip, run, weights, data, tmp_path, monkeypatch):
    """The first ten frames of each."""
    path = data / "video" / f"{clip}.mp4"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    read = video.Video.__iter__
    monkeypatch.setattr(video.Video, "__iter__", lambda self: (frame for frame, _ in zip(read(self), range(10), strict=False)))
    status, out, err = run("detect", path, "--weights", weights, "--out", "o.mp4", "--json")
    assert status == 0, err
    rows, summary = lines(out)
    assert len(rows) == summary["frames"] == 10 and len(read_video(tmp_path / "o.mp4")[0]) == 10
    assert 0 < summary["firing_rate"] < 1
