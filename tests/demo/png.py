"""PNG files with a palette of 256 colours: a screenshot of text needs a third of the bytes."""

from __future__ import annotations

import base64
import struct
import zlib

from playwright.sync_api import Page

# The most frequent colours are kept, each other one becomes the nearest of them.
_QUANTISE = """async source => {
    const bitmap = await createImageBitmap(await (await fetch(source)).blob())
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), drawn = canvas.getContext("2d")
    drawn.drawImage(bitmap, 0, 0)
    const pixels = drawn.getImageData(0, 0, bitmap.width, bitmap.height).data, often = new Map()
    const colour = at => pixels[at] << 16 | pixels[at + 1] << 8 | pixels[at + 2]
    for (let at = 0; at < pixels.length; at += 4) often.set(colour(at), (often.get(colour(at)) ?? 0) + 1)
    const kept = [...often].sort((a, b) => b[1] - a[1]).slice(0, 256).map(one => one[0])
    const part = (colour, shift) => colour >> shift & 255
    const far = (a, b) => [0, 8, 16].reduce((sum, shift) => sum + (part(a, shift) - part(b, shift)) ** 2, 0)
    const index = new Map(kept.map((one, n) => [one, n]))
    for (const one of often.keys()) if (!index.has(one))
        index.set(one, kept.reduce((best, other, n) => far(one, other) < far(one, kept[best]) ? n : best, 0))
    let text = ""
    for (let at = 0; at < pixels.length; at += 4) text += String.fromCharCode(index.get(colour(at)))
    return {width: bitmap.width, height: bitmap.height, palette: kept, indexes: btoa(text)}
}"""


def small(page: Page, png: bytes) -> bytes:
    """Return the picture with a palette; the work is done by the browser, in a page of its own."""
    found = page.evaluate(_QUANTISE, f"data:image/png;base64,{base64.b64encode(png).decode()}")
    width, height, indexes = found["width"], found["height"], base64.b64decode(found["indexes"])
    rows = b"".join(b"\0" + indexes[start : start + width] for start in range(0, width * height, width))
    palette = b"".join(colour.to_bytes(3, "big") for colour in found["palette"])
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
