#!/usr/bin/env python3
"""bench/renew_docs.py [FOLDER...]: puts the tables and charts that tools/bench has written into docs/.

In docs/benchmarks.md, what stands between the lines `<!-- begin NAME -->` and `<!-- end -->` becomes FOLDER/NAME.md, for those
names that the folders have: build/bench-debian and build/bench-newest, whose kernels are called kernels_newest. Kernels that ran
on a processor without AVX-512 are called kernels_avx2, and are all that is taken from their folder. Text around the tables, which says what the
figures mean, is left to people.
"""

import pathlib
import re
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def rows_of(text):
    """Cells of the lines of a table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def synchronized(text):
    """Without the columns of added latencies."""
    head = ["tensor of each rank", "forward alone, us", "blocking / alone", "in blocks / alone",
            "backward alone, us", "blocking / alone", "in blocks / alone"]  # fmt: skip
    summary = next(line for line in text.splitlines() if line.startswith("Geometric means"))
    return summary + "\n\n" + table(head, [row[:7] for row in rows_of(text)])


def latency(text):
    """The columns of added latencies."""
    head = ["tensor of each rank"]
    for added in (20, 200, 1000):
        head += [f"{added} us: forward blocking", "in blocks", "backward blocking", "in blocks"]
    return table(head, [row[:1] + row[7:19] for row in rows_of(text)])


def fabric(text, gathers):
    """Lines of several runs, without a head."""
    head = ["ranks", "channels", "frames", "bytes of a rank", "us"] + ["all-gather of 2 C + 1 floats, us"] * gathers
    return table(head, rows_of("\n|\n|\n" + text))


def kernels(text, variants=True):
    """Case by case only f32, trained by one thread; without variants the means are plain ones only."""
    kept = []
    for line in text.splitlines():
        is_case = re.match(r"\| (forward|backward|inference)/", line)
        is_variant = re.match(r"\| \w+ \| \w+ \| [^|]* \| \d+ \| [^-|]", line)
        if re.match(r"\| (forward|backward)/f32/[^ ]*/t1 ", line) or not (is_case or is_variant and not variants):
            kept.append(line)
    return "\n".join(kept) + "\n"


def pieces(folder):
    """Name and text of all that a folder has."""
    newest = (folder / "peers").is_dir()
    file = folder / "kernels.md"
    if not newest and file.exists() and re.search("Ours: syncbn_(avx2|sse2),", file.read_text()):
        yield "kernels_avx2", kernels(file.read_text(), variants=False)
        return
    for file in folder.glob("*.md"):
        text = file.read_text()
        if file.stem == "kernels":
            yield "kernels_newest" if newest else "kernels", kernels(text)
        elif file.stem.startswith("synchronized"):
            yield file.stem, synchronized(text)
            yield file.stem.replace("synchronized", "latency"), latency(text)
        elif file.stem.startswith("fabric"):
            yield file.stem, fabric(text, gathers=file.stem == "fabric")
        else:
            yield file.stem, text
    charts = {"kernels.svg": "benchmarks_newest.svg" if newest else "benchmarks.svg", "cost_model.svg": "cost_model.svg"}
    for name, to in charts.items():
        if (folder / name).exists():
            shutil.copyfile(folder / name, DOCS / to)


def main():
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    folders = [pathlib.Path(a) for a in sys.argv[1:]] or [ROOT / "build/bench-debian", ROOT / "build/bench-newest"]
    file = DOCS / "benchmarks.md"
    document = file.read_text()
    for folder in folders:
        for name, text in pieces(folder):
            place = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            document, found = place.subn(lambda match: match[1] + "\n" + text.strip() + "\n\n" + match[2], document)
            print(f"{folder}: {name}: {'renewed' if found else 'no place for it'}")
    file.write_text(document)


if __name__ == "__main__":
    main()
