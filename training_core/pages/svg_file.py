"""A chart of a page as a file of its own, for places that keep pictures: with a white ground, its name and legend."""

import re
import xml.etree.ElementTree as ElementTree
from functools import cache

from training_core.pages.style import STYLE

_NAMESPACE = "http://www.w3.org/2000/svg"
_HEAD = 44.0
_SCALE = 2


def svg_file(figure: str) -> str:
    """The text of an SVG file of a chart, given as the HTML that a function of `pages.charts` or `scatter` made.

    Colours are those of the light page, written out, since not every viewer knows variables of style sheets.
    """
    shown = ElementTree.fromstring(figure)
    drawing, caption = shown.find("svg"), shown.findtext("figcaption", "")
    if drawing is None:
        raise AssertionError("a chart has a drawing")
    _, _, width, height = (float(part) for part in drawing.attrib["viewBox"].split())
    sizes = {"width": f"{_SCALE * width:.0f}", "height": f"{_SCALE * (height + _HEAD):.0f}"}
    file = ElementTree.Element(
        "svg", {"xmlns": _NAMESPACE, "viewBox": f"0 {-_HEAD:.0f} {width:.0f} {height + _HEAD:.0f}", **sizes}
    )
    ElementTree.SubElement(file, "style").text = _style()
    ElementTree.SubElement(
        file, "rect", {"y": f"{-_HEAD:.0f}", "width": "100%", "height": "100%", "fill": _light()["page"]}
    )
    ElementTree.SubElement(file, "text", {"class": "name", "x": "8", "y": "-26"}).text = caption
    across = 8.0
    for entry in shown.iterfind("div/span"):
        text = entry.text or ""
        ElementTree.SubElement(
            file, "circle", {"class": entry.attrib["class"], "cx": f"{across + 4:.0f}", "cy": "-12", "r": "4"}
        )
        ElementTree.SubElement(file, "text", {"class": "tick", "x": f"{across + 13:.0f}", "y": "-8"}).text = text
        across += 30 + 6.2 * len(text)  # about as wide as the letters are
    file.extend(drawing)
    return ElementTree.tostring(file, encoding="unicode", xml_declaration=True)


@cache
def _light() -> dict[str, str]:
    """The colours of the light page by name."""
    found = re.search(r":root\{([^}]*)\}", STYLE)
    if found is None:
        raise AssertionError("the style sheet has its colours on top")
    return dict(part.strip().removeprefix("--").split(":", 1) for part in found.group(1).split(";") if part.strip())


@cache
def _style() -> str:
    """The rules of the style sheet about what is inside a chart."""
    rules = []
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", STYLE):
        inside = [one.strip().removeprefix(".chart ") for one in selectors.split(",") if ".chart " in one]
        if inside:
            rules.append(f"{','.join(inside)}{{{re.sub(r'var[(]--([a-z]+)[)]', lambda m: _light()[m[1]], body)}}}")
    return "".join(rules)
