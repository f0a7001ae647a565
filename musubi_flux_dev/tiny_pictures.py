"""Pictures of the tiny instance: plain shapes drawn by code, with captions that say what is there."""

import io
from dataclasses import dataclass

from PIL import Image, ImageDraw

COLOURS = {
    "red": (206, 44, 49),
    "green": (46, 139, 87),
    "blue": (38, 84, 178),
    "yellow": (240, 196, 25),
    "purple": (122, 62, 157),
    "white": (245, 245, 240),
    "grey": (128, 128, 132),
    "black": (24, 24, 28),
}

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One picture; sizes are in pixels."""

    height: int
    width: int
    shape: str
    colour: str
    background: str


SCENES = (
    Scene(height=256, width=256, shape="circle", colour="red", background="white"),
    Scene(height=192, width=320, shape="square", colour="blue", background="grey"),
    Scene(height=320, width=192, shape="triangle", colour="green", background="white"),
    Scene(height=240, width=288, shape="cross", colour="yellow", background="blue"),
    Scene(height=288, width=240, shape="ring", colour="purple", background="yellow"),
    Scene(height=256, width=256, shape="square", colour="green", background="black"),
    Scene(height=200, width=300, shape="triangle", colour="red", background="grey"),
    Scene(height=300, width=200, shape="circle", colour="yellow", background="purple"),
    Scene(height=224, width=224, shape="ring", colour="blue", background="white"),
    Scene(height=180, width=340, shape="cross", colour="white", background="red"),
    Scene(height=340, width=180, shape="square", colour="black", background="yellow"),
    Scene(height=272, width=272, shape="circle", colour="purple", background="green"),
)


def caption(scene: Scene) -> str:
    """Return what is in the picture, in plain words."""
    return f"a {scene.colour} {scene.shape} on a {scene.background} background"


def picture(scene: Scene) -> bytes:
    """Return the picture as a PNG file."""
    image = Image.new("RGB", (scene.width, scene.height), COLOURS[scene.background])
    draw = ImageDraw.Draw(image)
    radius = min(scene.height, scene.width) // 3
    x, y = scene.width // 2, scene.height // 2
    DRAWERS[scene.shape](draw, (x - radius, y - radius, x + radius, y + radius), COLOURS[scene.colour])
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _circle(draw: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    draw.ellipse(box, fill=colour)


def _square(draw: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    draw.rectangle(box, fill=colour)


def _triangle(draw: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    draw.polygon([((left + right) // 2, top), (right, bottom), (left, bottom)], fill=colour)


def _ring(draw: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    draw.ellipse(box, outline=colour, width=(box[2] - box[0]) // 6)


def _cross(draw: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    third = (right - left) // 3
    draw.rectangle((left + third, top, right - third, bottom), fill=colour)
    draw.rectangle((left, top + third, right, bottom - third), fill=colour)


DRAWERS = {"circle": _circle, "square": _square, "triangle": _triangle, "ring": _ring, "cross": _cross}
