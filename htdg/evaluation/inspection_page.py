"""The pictures and the HTML page of an inspection: the worst images first.

All pictures of an inspection share one scale of colours, which follows from its threshold alone, so
that the same tint means the same everywhere, and next week, too. The page is one file without
scripts, which opens from disk; it links to the overlays beside it.
"""

from __future__ import annotations

import base64
import html
import io
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from htdg.evaluation import plots
from htdg.evaluation.overlays import STRENGTH, ColourScale, overlay, resized_picture
from htdg.scorer import fitted

#: What is said of an image.
ANOMALOUS, NORMAL, NO_THRESHOLD = "anomalous", "normal", "no threshold"
#: Images that the page shows; the others are in a table.
MOST_SHOWN = 300
#: Longer side of a picture on the page, and that of an overlay at most, in pixels.
THUMBNAIL, LARGEST_OVERLAY = 240, 1200


@dataclass(frozen=True)
class InspectedImage:
    """What an inspection says of an image.

    Attributes:
        file: its path relative to the folder, with slashes.
        score: anomaly score in [0, 1].
        evidence: what each kind of evidence contributed, relative to normal patches: 1 is normal.
        verdict: ``"anomalous"``, ``"normal"`` or ``"no threshold"``.
        overlay: path of its overlay relative to the page, with slashes.
        place: where it is most anomalous, in words.
        share: of its pixels above the threshold, in [0, 1]; None without a threshold.
    """

    file: str
    score: float
    evidence: Mapping[str, float]
    verdict: str
    overlay: str
    place: str
    share: float | None


# --- Pictures -----------------------------------------------------------------------------------


def overlay_picture(image: np.ndarray, anomaly_map: np.ndarray, scale: ColourScale) -> np.ndarray:
    """``overlay`` at the image's resolution, or, of large ones, at ``LARGEST_OVERLAY`` pixels."""
    height, width = image.shape[:2]
    size = fitted(height, width, min(LARGEST_OVERLAY, max(height, width)))
    return overlay(resized_picture(image, size), resized_picture(anomaly_map, size), scale)


def thumbnail(image: np.ndarray, anomaly_map: np.ndarray, scale: ColourScale) -> bytes:
    """A small JPEG of an image beside the overlay."""
    height, width = image.shape[:2]
    size = fitted(height, width, THUMBNAIL)
    small = resized_picture(image, size)
    gap = np.full((size[0], 4, 3), 255, np.uint8)
    both = np.hstack([small, gap, overlay(small, resized_picture(anomaly_map, size), scale)])
    content = io.BytesIO()
    Image.fromarray(both).save(content, format="JPEG", quality=85)
    return content.getvalue()


def place_in_words(anomaly_map: np.ndarray) -> str:
    """Where a map (H, W) is highest, as "top left" or "centre"."""
    height, width = anomaly_map.shape
    y, x = np.unravel_index(int(anomaly_map.argmax()), anomaly_map.shape)
    row = ("top", "", "bottom")[3 * int(y) // height]
    column = ("left", "", "right")[3 * int(x) // width]
    return f"{row} {column}".strip() or "centre"


# --- The page -----------------------------------------------------------------------------------

_STYLE = f"""
body {{ font: 16px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 84rem;
  padding: 0 1rem; color: #222; background: #fff; }}
.summary {{ font-size: 1.25rem; }}
.cards {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); }}
figure {{ margin: 0; padding: .6rem; border: 1px solid #ccc; border-left-width: .5rem;
  border-radius: .3rem; }}
figure img {{ display: block; width: 100%; max-height: 18rem; object-fit: contain; }}
figcaption {{ margin-top: .4rem; font-size: .9rem; overflow-wrap: anywhere; }}
.anomalous {{ border-left-color: {plots.ANOMALOUS}; }}
.normal {{ border-left-color: {plots.NORMAL}; }}
.scale {{ display: inline-block; width: 10rem; height: 1rem; vertical-align: middle;
  border: 1px solid #888; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #ddd;
  overflow-wrap: anywhere; }}
"""
#: Headings by verdict; shape says the same as colour.
_HEADINGS = {
    ANOMALOUS: "✕ Anomalous",
    NORMAL: "✓ Normal",
    NO_THRESHOLD: "Ordered by score, the most anomalous first",
}


def inspection_page(
    title: str,
    summary: str,
    facts: Sequence[str],
    images: Sequence[InspectedImage],
    unreadable: Mapping[str, str],
    scale: ColourScale,
    picture: Callable[[InspectedImage], bytes],
) -> str:
    """The page of an inspection.

    Args:
        title: of the page.
        summary: how it came out, a line.
        facts: what else to say at the top: sentences.
        images: the most anomalous first.
        unreadable: files that could not be read, and why.
        scale: that of the pictures.
        picture: gives the ``thumbnail`` of an image; asked only for those that are shown.
    """
    parts = [
        f'<p class="summary">{html.escape(summary)}</p>',
        *(f"<p>{html.escape(fact)}</p>" for fact in facts),
        _legend(scale),
    ]
    if unreadable:
        reasons = [[html.escape(file), html.escape(why)] for file, why in unreadable.items()]
        parts += [f"<h2>Could not be read ({len(reasons)})</h2>", _table(["file", "why"], reasons)]
    shown, rest = images[:MOST_SHOWN], images[MOST_SHOWN:]
    for verdict, heading in _HEADINGS.items():
        count = sum(image.verdict == verdict for image in images)
        cards = [_card(image, picture(image)) for image in shown if image.verdict == verdict]
        if count:
            parts.append(f"<h2>{heading} ({count})</h2>")
            parts.append('<div class="cards">' + "\n".join(cards) + "</div>")
    if rest:
        rows = [[_link(i, html.escape(i.file)), f"{i.score:.3f}", i.verdict] for i in rest]
        parts.append(f"<h2>The other {len(rest)}, less anomalous</h2>")
        parts.append(_table(["file", "score", "verdict"], rows))
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _legend(scale: ColourScale) -> str:
    """How to read the pictures, with the scale of their colours."""
    red, green, blue = (round(255 * value) for value in to_rgb(scale.tint))
    tint = f"rgba({red},{green},{blue},0), rgba({red},{green},{blue},{STRENGTH})"
    line = "" if scale.line is None else f" A line surrounds what is above {scale.line:.2f}."
    return (
        "<p>Left the image, right the same, tinted where it is anomalous: "
        f'{scale.low:.2f} <span class="scale" style="background:linear-gradient(to right, {tint})">'
        f"</span> {scale.high:.2f}, the same for all images.{line} Click on one to enlarge it.</p>"
    )


def _card(image: InspectedImage, picture: bytes) -> str:
    """An image with its thumbnail, file name, score and what it is made of."""
    share = "" if image.share is None else f", {image.share:.1%} of it above the threshold"
    where = f"most anomalous at the {image.place}{share}"
    kinds = ", ".join(f"{kind} {value:.2f}" for kind, value in image.evidence.items())
    data = base64.b64encode(picture).decode("ascii")
    file = html.escape(image.file)
    alt = f"{file} and where it is anomalous: {image.verdict}, score {image.score:.3f}, {where}"
    source = f'<img loading="lazy" src="data:image/jpeg;base64,{data}" alt="{alt}">'
    return (
        f'<figure class="{image.verdict.replace(" ", "-")}">{_link(image, source)}\n'
        f"<figcaption><b>{file}</b><br>score {image.score:.3f}"
        f"{f' ({kinds})' if kinds else ''}, {image.verdict}<br>{where}</figcaption></figure>"
    )


def _link(image: InspectedImage, content: str) -> str:
    """A link to the overlay of an image around HTML."""
    address = urllib.parse.quote(image.overlay, errors="surrogateescape")
    return f'<a href="{address}">{content}</a>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
