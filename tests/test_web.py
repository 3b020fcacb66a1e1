"""The page of a trained detector: what happens behind it, the command, and the page itself in a browser."""

import os
import shutil
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from detectors import NAMES, detector, finding
from fptt import state as states
from fptt.detection.detector import Detector
from fptt.detection.looks import look
from fptt.errors import InputError
from fptt.web import viewer as viewers
from fptt.web import views
from fptt.web.viewer import Viewer, opened

pytest.importorskip("torchvision")

OBJECTS = [(10, 20, 60, 50, 0.9, 2), (70, 5, 110, 70, 0.4, 0), (20, 60, 40, 80, 0.1, 1)]  # in an image of 90 x 120


def noise(height=90, width=120, seed=1):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def viewer(tmp_path):
    """A viewer whose detector fires, and finds a little everywhere."""
    return Viewer(detector(), tmp_path)


@pytest.fixture
def gradio(monkeypatch, tmp_path):
    """Gradio, for a page whose temporary files lie in ``tmp_path``."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    for name in ("GRADIO_TEMP_DIR", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return pytest.importorskip("gradio")


@pytest.fixture
def clip(tmp_path):
    """A video of six frames of 64 x 96 pixels."""
    pytest.importorskip("av")
    from fptt.detection.video import video_writer

    with video_writer(tmp_path / "six.mp4", Fraction(10), 64, 96) as add:
        for number in range(6):
            add(noise(64, 96, number), number / 10)
    return tmp_path / "six.mp4"


def test_a_table_says_what_was_found_and_where(tmp_path):
    found = look(finding(OBJECTS, 90, 120), noise())[0].found(0.3, 0.45)
    rows = views.table(found, NAMES).split("<tr>")[2:]
    assert len(rows) == 2
    assert "cat" in rows[0] and "0.90" in rows[0] and "10, 20" in rows[0] and "50 x 30" in rows[0] and "width: 90.0%" in rows[0]
    assert "ant" in rows[1] and "0.40" in rows[1]
    assert "Nothing" in views.table(look(finding([], 90, 120), noise())[0].found(0.3, 0.45), NAMES)


def test_every_choice_draws_and_lists_what_was_seen_and_runs_no_network(viewer, monkeypatch):
    image = noise()
    seen = viewer.look(image, 3)
    monkeypatch.setattr(Detector, "forward", None)
    lengths = set()
    for chosen in ((0.5, 0.45), (0.3, 0.1), (0.7, 0.45), (1.0, 0.45)):
        picture, table = viewer.found(seen, *chosen)
        lengths.add(number := len(seen.look.found(*chosen).scores))
        assert max(0, table.count("<tr>") - 1) == number
        assert picture.shape == (90, 120, 3) and picture.dtype == np.uint8
        assert (picture != image.permute(1, 2, 0).numpy()).any() == (number > 0)
    assert len(lengths) == 4
    assert views.rates(seen.look.rates, seen.look.firing_rate).count("<tr>") == 19
    for layer, (rows, columns) in viewer.layers.items():
        assert seen.look.maps[layer].shape == (rows, columns)
        assert viewer.spikes(seen, layer).shape == (48 * 7, 64 * 7, 3)  # 120 x 90 pixels, in 64 x 64, and enlarged


def test_a_spike_map_shows_the_image_grey_and_spikes_in_colour():
    square = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    cells = torch.zeros(4, 4)
    cells[1, 3] = 2.0
    picture = views.spike_map(square, (0, 16), cells)
    assert picture.shape == (32 * 7, 64 * 7, 3), "without the bars above and below, and enlarged"
    coloured = picture.max(2).astype(int) - picture.min(2) > 50
    rows, columns = np.nonzero(coloured)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (0, 16 * 7, 48 * 7, 64 * 7)
    assert (views.spike_map(square, (0, 0), torch.zeros(4, 4)) == 58).all(), "no spike, no colour"


def test_every_session_has_a_state_of_its_own(viewer):
    """Two cameras by turns see what each would see alone."""
    frames = [[noise(48, 64, seed + 10 * camera) for seed in range(4)] for camera in range(2)]
    alone = []
    for camera in frames:
        state = None
        for frame in camera:
            _, state = detector().step(frame, state)
        alone.append(state)
    seen = [None, None]
    for pair in zip(*frames, strict=True):
        for camera, frame in enumerate(pair):
            seen[camera] = viewer.camera(frame.permute(1, 2, 0).numpy(), seen[camera])
    for mine, theirs in zip(seen, alone, strict=True):
        for one, other in zip(states.leaves(mine.state), states.leaves(theirs), strict=True):
            assert torch.equal(one, other)
    fresh = viewer.camera(frames[0][-1].permute(1, 2, 0).numpy(), None)
    assert fresh.look.rates != seen[0].look.rates


def test_a_video_is_looked_at_frame_by_frame_and_cut_anew_for_another_threshold(viewer, clip, monkeypatch):
    from fptt.detection.video import Video

    watched = [(len(film.looks), seen) for film, seen in viewer.film(clip, 5)]
    assert [count for count, _ in watched] == [1, 2, 3, 4, 5], "no more than were asked for"
    *_, (film, _) = viewer.film(clip, 100)
    assert len(film.looks) == film.total == 6 and not film.looks[0].maps
    state = None
    for frame, seen in zip(Video(str(clip), ""), film.looks, strict=True):
        wanted, state = detector().step(frame.image, state)
        torch.testing.assert_close(seen.found(0.5, 0.45), wanted)
    monkeypatch.setattr(Detector, "forward", None)
    path, course, counts = viewer.clip(film, 0.5, 0.45)
    assert [frame.image.shape for frame in Video(str(path), "")] == [(3, 64, 96)] * 6
    assert course.count("<svg") == 1 and "firing rate" in course and 'height="' not in course.split(">")[1]
    assert "<td>6</td>" in counts
    nothing, _, counts = viewer.clip(film, 1.0, 0.45)
    assert "Nothing" in counts and nothing != path


def test_a_video_that_is_stopped_is_cut_as_far_as_it_was_seen_and_one_that_is_dropped_is_not(gradio, viewer, clip):
    from fptt.detection.video import Video
    from fptt.web.page import Page

    page = Page(viewer, "w")
    shown = page.watch(str(clip), 10, 0.5, 0.45)
    next(shown)
    next(shown)
    _, film, *_, note, _, _ = next(shown)
    assert "Frame 2 of 6" in note
    assert page.cut(film, 0.5, 0.45) == (gradio.skip(),) * 7, "a slider that moves meanwhile changes nothing"
    page.stop(film)
    assert list(shown) == []
    _, _, place, _, note, _, _ = page.cut(film, 0.5, 0.45)
    assert "The first 2 frames" in note and len(list(Video(place["value"], ""))) == 2
    page.drop(film)
    assert page.cut(film, 0.5, 0.45)[4:] == ("", "", "")


def test_what_is_too_large_or_no_image_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (300, 200)).save(tmp_path / "large.png")
    monkeypatch.setattr(viewers, "MEGAPIXELS", 0.05)
    for name, message in (("text.png", "no readable image"), ("large.png", "300 x 200 pixels, more than")):
        with pytest.raises(InputError, match=message) as caught:
            opened(tmp_path / name)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(viewers, "MEGAPIXELS", 1)
    assert opened(tmp_path / "large.png").shape == (3, 200, 300)


def test_a_large_picture_is_shown_smaller_but_its_boxes_are_told_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(viewers, "LONGEST", 60)
    viewer = Viewer(finding(OBJECTS, 90, 120), tmp_path)
    seen = viewer.look(torch.zeros(3, 90, 120, dtype=torch.uint8))
    picture, table = viewer.found(seen, 0.7, 0.45)
    rows, columns = np.nonzero(picture.max(2))
    assert picture.shape == (45, 60, 3) and "50 x 30" in table
    assert abs(columns.min() - 5) <= 1 and abs(rows.max() - 25) <= 1


def test_the_page_says_which_weights_it_uses():
    one = detector()
    one.training = {"rule": "fptt", "images": "07+12 trainval", "train_samples": 2963, "test_map50": 0.253}
    text = views.about(one, "a/<i>.safetensors")
    for part in ("a/&lt;i&gt;.safetensors", "FPTT on 2,963 images of PASCAL VOC 07+12 trainval", "25.3 % on its test set"):
        assert part in text
    one.training = {"rule": "bptt", "images": "my/<b>"}
    assert "BPTT on my/&lt;b&gt;" in views.about(one, "w") and "unknown precision" in views.about(one, "w")


def test_a_network_without_spikes_has_no_spike_maps(tmp_path):
    viewer = Viewer(finding(OBJECTS, 90, 120), tmp_path)
    assert viewer.layers == {} and viewer.look(noise()).look.rates == {}


@pytest.fixture
def weights(tmp_path):
    pytest.importorskip("safetensors")
    detector().save(tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_what_the_command_refuses(run, weights, gradio, monkeypatch):
    (weights.parent / "wrong.safetensors").write_bytes(b"no weights")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        cases = [
            (["--weights", weights, "--port", other.getsockname()[1]], "is taken"),
            (["--weights", weights, "--port", "70000"], "between 1 and 65535"),
            (["--weights", weights, "--host", "192.0.2.1"], "--host 192.0.2.1 cannot be listened at"),
            (["--weights", "wrong.safetensors"], "wrong.safetensors is damaged or no file of weights"),
            (["--weights", weights, "--device", "nothing"], "--device nothing cannot be used"),
        ]
        for words, message in cases:
            status, out, err = run("web", "--no-open", *words)
            assert status == 2 and message in err and err.count("\n") == 1 and not out, err
    for name in [name for name in sys.modules if name.startswith("fptt.web.page")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    status, _, err = run("web", "--weights", weights, "--no-open")
    assert status == 2 and "pip install 'fptt[web]'" in err and err.count("\n") == 1


def test_the_command_serves_a_page_until_ctrl_c(run, weights, gradio, monkeypatch, tmp_path):
    """One that knows only files that were given to it."""
    answers = {}

    def visit(address):
        page = urllib.request.urlopen(address).read().decode()
        answers["page"], answers["folders"] = page, list(tmp_path.glob("fptt-web-*"))
        secret = tmp_path / "mine.png"
        Image.new("RGB", (8, 8)).save(secret)
        try:
            urllib.request.urlopen(f"{address}gradio_api/file={secret}")
        except urllib.error.HTTPError as error:
            answers["file"] = error.code
        os.kill(os.getpid(), signal.SIGINT)

    import webbrowser

    monkeypatch.setattr(webbrowser, "open", lambda address: threading.Timer(0.5, visit, [address]).start())
    status, out, err = run("web", "--weights", weights)
    assert status == 0 and not err, err
    assert "mean average precision 25.0 %" in out and "http://127.0.0.1:" in out
    assert "What a spiking network sees" in answers["page"] and answers["file"] in (403, 404)
    assert len(answers["folders"]) == 1 and not answers["folders"][0].exists(), "what it was given is gone"


def test_the_page_calls_files_as_a_person_does(gradio, viewer):
    from fptt.web.page import Page

    page = Page(viewer, "w")
    folder = viewer.folder / "0a1b2c"
    folder.mkdir()
    (folder / "my <cat>.png").write_text("no image")
    with pytest.raises(gradio.Error) as caught:
        page.look(str(folder / "my <cat>.png"), 3)
    assert caught.value.message.startswith("my &lt;cat&gt;.png is no readable image") and not caught.value.print_exception
    with pytest.raises(gradio.Error, match="cannot read my"):
        list(page.watch(str(folder / "my <cat>.png"), 10, 0.3, 0.45))
    assert page.look(None, 3) is None  # removed in the meantime
    seen = page.look_again(viewer.look(noise()), 2)
    picture, table, cells, rates = page.show(seen, 0.5, 0.45, "stem2")
    assert picture.shape == (90, 120, 3) and "<table" in table and "<table" in rates and cells.shape[1] == 64 * 7
    assert page.show(None, 0.5, 0.45, "stem2") == (None, "", None, "")


@pytest.fixture
def browser():
    """A headless Chromium that has a camera, if only a drawn one."""
    playwright = pytest.importorskip("playwright.sync_api")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as play:
        place = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        try:
            one = play.chromium.launch(executable_path=place, args=["--no-sandbox", *camera])
        except playwright.Error:
            pytest.skip("no Chromium is installed to look at the page with")
        yield one
        one.close()


@pytest.fixture
def page(gradio, browser):
    """The page of a detector that fires; whatever goes wrong in the browser, or asks elsewhere, is an error."""
    from fptt.web.server import served

    asked, problems = [], []
    with served(detector(), "w.safetensors") as address:
        page = browser.new_page(viewport={"width": 1280, "height": 800}, permissions=["camera"])
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: message.type == "error" and problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("framenavigated", lambda _: problems.clear())  # such as that its stream broke off, where it is loaded again
        page.goto(address)
        page.get_by_text("mean average precision 25.0 %").wait_for()
        yield page
        page.close()
    assert not problems
    assert {url.split("/")[2] for url in asked if not url.startswith(("data:", "blob:"))} == {address.split("/")[2]}


def test_a_person_sees_what_is_in_an_image_and_which_neurons_fired(page, tmp_path):
    Image.fromarray(noise().permute(1, 2, 0).numpy()).save(tmp_path / "noise.png")
    (tmp_path / "text.png").write_text("no image")
    page.set_input_files("input[type=file] >> nth=0", tmp_path / "noise.png")
    rows = page.locator(".fptt-list:visible tbody tr")
    rows.first.wait_for()
    before = rows.count()
    assert page.get_by_alt_text("The image with its detections").get_attribute("src").startswith("data:image/jpeg")
    assert page.locator(".fptt-rates:visible tbody tr").count() == 19
    cells = page.get_by_alt_text("The layer's spikes")
    first = cells.get_attribute("src")
    page.get_by_role("combobox", name="Layer").click()
    page.get_by_role("option", name="block1_1").click()
    page.wait_for_function("before => document.querySelector('.fptt-map img').src != before", arg=first)
    page.get_by_label("number input for Least score").first.fill("0.7")
    page.get_by_label("number input for Least score").first.blur()
    page.wait_for_function("before => document.querySelectorAll('.fptt-list tbody tr').length < before", arg=before)
    page.screenshot(path=tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000
    page.get_by_role("button", name="Remove Image").click()
    page.locator(".fptt-list:visible").wait_for(state="detached")
    page.set_input_files("input[type=file] >> nth=0", tmp_path / "text.png")
    page.get_by_text("text.png is no readable image").wait_for()
    assert page.locator(".fptt-list:visible").count() == 0


def test_a_person_sees_what_is_in_a_video(page, clip):
    page.get_by_role("tab", name="Video").click()
    page.set_input_files("input[type=file] >> nth=1", clip)
    page.get_by_text("All 6 frames").wait_for()
    page.locator("video:visible").wait_for()
    page.get_by_role("img", name="firing rate and number of detections").wait_for()
    assert page.locator(".fptt-list:visible tbody tr").count() > 0 and not page.get_by_role("button", name="Stop").is_visible()


# Of the camera: whether it has shown two pictures since the page was loaded.
TWO = """() => {
    const shown = document.querySelector("img[alt^='The camera']")
    window.pictures = (window.pictures ?? new Set()).add(shown?.src)
    return window.pictures.size > 2
}"""


def test_a_person_sees_what_is_before_a_camera(page):
    from playwright.sync_api import TimeoutError

    for last in (False, False, False, True):  # on a busy machine gradio's stream now and then stands still: load the page again
        page.get_by_role("tab", name="Camera").click()
        page.get_by_role("button", name="Click to Access Webcam").click()
        page.get_by_role("button", name="capture photo").click()
        try:
            page.wait_for_function(TWO, timeout=20_000)
            break
        except TimeoutError:
            if last:
                raise
            page.reload()
    assert page.locator(".fptt-rates:visible tbody tr").count() == 19
    page.get_by_role("button", name="capture photo").click()
