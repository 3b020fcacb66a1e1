"""How the page looks: the project's colours, fonts of the system, nothing from elsewhere."""

from pathlib import Path

import gradio as gr
from matplotlib.colors import to_hex, to_rgb

from fptt.plots import COLOURS

CSS = Path(__file__).with_name("page.css")
SHARES = {50: 0.08, 100: 0.16, 200: 0.3, 300: 0.5, 400: 0.75, 500: 1.0, 600: 1.15, 700: 1.35, 800: 1.5, 900: 1.65, 950: 1.75}
"""Of each shade: how much of the colour there is on white, up to 1; and beyond, of black on the colour."""


def shades(colour: str) -> gr.themes.Color:
    """From nearly white to nearly black, ``colour`` in the middle."""

    def mixed(share: float) -> str:
        red, green, blue = (1 - share * (1 - c) if share <= 1 else c * (2 - share) for c in to_rgb(colour))
        return to_hex((red, green, blue))

    return gr.themes.Color(*(mixed(share) for share in SHARES.values()))


def theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=shades(COLOURS[0]),
        secondary_hue=shades(COLOURS[0]),
        neutral_hue="gray",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(body_text_color_subdued="*neutral_500")
