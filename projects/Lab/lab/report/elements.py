"""The report's building blocks as HTML: pictures, figures, tables."""

import base64
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np


@dataclass(frozen=True)
class Panel:
    """One picture of a figure with a line of text below it.

    `cells`: the picture consists of flat squares; it is kept as PNG and stays sharp when the browser enlarges it.
    Photographs become JPEGs.
    """

    picture: np.ndarray
    text: str = ""
    cells: bool = False

    def html(self) -> str:
        kind = ' class="cells"' if self.cells else ""
        source = data_uri(self.picture, ".png" if self.cells else ".jpg")
        alt = escape(self.text or "picture", quote=True)
        return f'<div class="panel"><img{kind} src="{source}" alt="{alt}">{escape(self.text)}</div>'


def data_uri(picture: np.ndarray, suffix: str) -> str:
    """RGB uint8 (H, W, 3) -> a data URI of a ".png" or ".jpg"."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 86] if suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 9]
    _, encoded = cv2.imencode(suffix, np.ascontiguousarray(picture[..., ::-1]), options)
    kind = "jpeg" if suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"


def panels(items: list[Panel], columns: int, smallest: int = 120, largest: int = 320) -> str:
    """Pictures in rows of `columns`, each between `smallest` and `largest` pixels wide; scrolls where it must."""
    style = f"--n:{columns};--min:{smallest}px;--max:{largest}px"
    return f'<div class="panels" style="{style}">{"".join(item.html() for item in items)}</div>'


def figure(content: str, see: str, bad: str) -> str:
    """Content with its caption: what is to be seen, and what would be a bad sign."""
    return f"<figure>{content}<figcaption><b>To see:</b> {see} <b>A bad sign:</b> {bad}</figcaption></figure>"


def table(head: list[str], rows: list[list[str]], kind: str = "", caption: str = "") -> str:
    """A table; cells of `rows` are whole `<td>` elements (see `cell`), the first of a row its heading."""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    thead = f"<thead><tr>{top}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}">{title}{thead}<tbody>{body}</tbody></table></div>'


def heading(text: str) -> str:
    """The first cell of a row."""
    return f'<th scope="row">{escape(text)}</th>'


def cell(text: str, kind: str = "") -> str:
    """A cell of plain text."""
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def missing(text: str) -> str:
    """The line that stands for a section whose files are not there."""
    return f'<p class="missing">{escape(text)}</p>'
