"""Makes of a page for readers of the repository one for Doxygen, which knows neither links to headings nor files outside of the
site. Usage: site_filter.py FILE"""

import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parents[1]


def label(page, heading):
    """Of a heading: the page, and the anchor that readers of the repository use."""
    anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    return re.sub(r"\W", "_", f"{page}_{anchor}")


def main():
    path = Path(sys.argv[1]).resolve()
    page = str(path.relative_to(root))

    def target(match):
        file, _, anchor = match[1].partition("#")
        if "://" in file:
            return match[0]
        to = (path.parent / file).resolve().relative_to(root) if file else Path(page)
        if to.suffix == ".svg":
            return match[0]  # Doxygen takes pictures along
        if to.suffix != ".md" or str(to).startswith("docs/examples"):
            return f"](files/{to})"  # docs/CMakeLists.txt puts them there
        return f"](@ref {label(to, anchor)})" if anchor else match[0]

    code = False
    for line in path.read_text().splitlines():
        if line.startswith("```"):
            code = not code
        if not code:
            if heading := re.match(r"#{2,} (.*)", line):
                line += f" {{#{label(page, heading[1])}}}"
            line = re.sub(r"\]\(([^)@ ]+)\)", target, line)
        print(line)


main()
