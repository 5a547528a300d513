"""Whether all files that the pages of a site refer to are there. Usage: check_links.py FOLDER"""

import re
import sys
from pathlib import Path

folder = Path(sys.argv[1])
pages = sorted(folder.glob("*.html"))
dead = []
for page in pages:
    for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text(errors="replace")):
        if not re.match(r"\w+:", link) and not (folder / link).exists():
            dead.append(f"{page.name}: {link}")
print("\n".join(dead) or f"{len(pages)} pages, no dead links")
sys.exit(1 if dead or not pages else 0)
