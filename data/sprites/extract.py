"""Writes the sprites that the scenes use, one SVG a file, from the npm packages of Iconify.

    npm pack @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/fluent-emoji@1.2.7 @iconify-json/noto@1.2.9
    python3 data/sprites/extract.py iconify-json-*.tgz
"""

import json
import sys
import tarfile
from pathlib import Path

STYLES = {
    "@iconify-json/fluent-emoji-flat": "flat",
    "@iconify-json/fluent-emoji": "3d",
    "@iconify-json/noto": "cartoon",
}
# Our word for the object, and the icon that shows it.
OBJECTS = {
    "apple": "red-apple", "lemon": "lemon", "strawberry": "strawberry", "cat": "cat-face",
    "dog": "dog-face", "fox": "fox", "frog": "frog", "rabbit": "rabbit-face",
    "fish": "fish", "octopus": "octopus", "butterfly": "butterfly",
    "ladybug": "lady-beetle", "flower": "tulip", "rose": "rose", "cactus": "cactus",
    "tree": "deciduous-tree", "mushroom": "mushroom", "house": "house", "car": "automobile",
    "bus": "bus", "rocket": "rocket", "boat": "sailboat", "ball": "soccer-ball",
    "guitar": "guitar", "key": "key", "bell": "bell", "diamond": "gem-stone", "crown": "crown",
    "star": "star", "umbrella": "umbrella", "snowman": "snowman-without-snow", "pizza": "pizza",
    "donut": "doughnut", "cake": "birthday-cake",
}

for name in sys.argv[1:]:
    with tarfile.open(name) as package:
        read = lambda member: json.load(package.extractfile(f"package/{member}"))
        style = STYLES[read("package.json")["name"]]
        icons = read("icons.json")
    width, height = icons.get("width", 16), icons.get("height", 16)
    folder = Path(__file__).parent / style
    folder.mkdir(exist_ok=True)
    for object, icon in OBJECTS.items():
        icon = icons["icons"][icon]
        w, h = icon.get("width", width), icon.get("height", height)
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}">{icon["body"]}</svg>\n'
        (folder / f"{object}.svg").write_text(svg)
