"""Pictures for the report's template."""

import base64
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Panel:
    """A picture, RGB uint8 (H, W, 3), with a caption.

    `cells`: it consists of flat squares, so it is stored as PNG and scaled without smoothing; other pictures become
    JPEGs.
    """

    picture: np.ndarray
    text: str
    cells: bool = False

    @property
    def uri(self) -> str:
        options = [cv2.IMWRITE_PNG_COMPRESSION, 9] if self.cells else [cv2.IMWRITE_JPEG_QUALITY, 86]
        _, encoded = cv2.imencode(".png" if self.cells else ".jpg", self.picture[..., ::-1], options)
        return data_uri("png" if self.cells else "jpeg", encoded.tobytes())


def data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
