"""A picture of the page of ``fptt web`` with an image or one frame of a video on it, taken by a headless Chromium.

    python benchmarks/web_screenshot.py astronaut.png --out docs/web.jpg

docs/web.jpg shows Eileen Collins, a photograph by NASA in the public domain, from the sample images of scikit-image.
"""

import argparse
import io
import itertools
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from fptt.commands.detectors import open_detector
from fptt.detection.detector import PACKAGED
from fptt.detection.video import open_source
from fptt.web.server import served


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", help="video or image to show a frame of")
    parser.add_argument("--frame", type=int, default=0, help="number of the frame (0)")
    parser.add_argument("--weights", type=Path, help="as of fptt web")
    parser.add_argument("--layer", help="whose spikes to show; default: as the page does")
    parser.add_argument("--width", type=int, default=1280, help="of the window; phones have 390 (1280)")
    parser.add_argument("--height", type=int, default=860, help="of the window (860)")
    parser.add_argument("--dark", action="store_true", help="in dark colours")
    parser.add_argument("--out", type=Path, default=Path("web.png"), help="picture to write (web.png)")
    options = parser.parse_args()
    frame = next(itertools.islice(open_source(options.video).frames, options.frame, None))
    name = (options.weights or PACKAGED).name
    with (
        tempfile.TemporaryDirectory() as folder,
        served(open_detector(options.weights), name) as address,
        sync_playwright() as play,
    ):
        file = Path(folder) / "frame.png"
        Image.fromarray(frame.image.permute(1, 2, 0).numpy()).save(file)
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        size = {"width": options.width, "height": options.height}
        page = browser.new_page(viewport=size, color_scheme="dark" if options.dark else "light")
        page.goto(address)
        page.set_input_files("input[type=file] >> nth=0", file)
        page.locator(".fptt-rates:visible").wait_for()
        if options.layer:
            page.get_by_role("combobox", name="Layer").click()
            page.get_by_role("option", name=f"{options.layer}:").click()
        page.mouse.move(0, 0)
        page.wait_for_timeout(2000)
        picture = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    picture.convert("RGB").save(options.out, optimize=True, quality=88)
    print(f"{options.out}: {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
