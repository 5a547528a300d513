#!/usr/bin/env python3
"""bench/report.py JSON [--markdown FILE] [--chart FILE]: what bench_kernels measured, as tables of ratios and a chart.

Ratios are medians over rounds of time of a peer by time of ours, so that more than 1 is faster than the peer. The limit
is the least memory traffic that the caches allow, measured in the same rounds: see docs/benchmarks.md. Of bench_cuda the limit
is the least that any device could do: each tensor is read or written once.
"""

import argparse
import json
import math
import re
import sys

CACHE_BYTES = 16 << 20
PEERS = {"onednn": "oneDNN", "onednn.blocked": "oneDNN blocked", "cudnn": "cuDNN", "cudnn.persistent": "cuDNN persistent", "torch": "LibTorch",
         "syncbn_avx2": "AVX2", "syncbn_sse2": "SSE2"}
MARKERS = {"onednn": "o", "cudnn": "o", "torch": "s", "onednn.blocked": "^", "cudnn.persistent": "^"}
IN_THE_SAME_LAYOUT = ("onednn", "cudnn", "cudnn.persistent", "torch")


class Case:
    def __init__(self, row, second_cache):
        self.second_cache = second_cache
        self.name = row["name"].split("/iterations")[0]
        parts = self.name.split("/")
        self.passing, self.format, self.layout = parts[:3]
        self.extents = [int(e) for e in parts[3].split("x")]
        self.threads = int(parts[4][1:])
        self.variant = "/".join(parts[5:])
        self.bytes = int(row["bytes"])
        self.ratio = {k[: -len(":ratio")]: v for k, v in row.items() if k.endswith(":ratio")}
        self.spread = {k[: -len(":low")]: (v, row[k[: -len(":low")] + ":high"]) for k, v in row.items() if k.endswith(":low")}
        times = {k[: -len(":us")]: v for k, v in row.items() if k.endswith(":us")}
        self.ours = next(k for k in times if k not in self.ratio)
        self.microseconds = times[self.ours]
        # Whether channels are neighbours in memory.
        self.in_rows = self.layout == "NHWC" or len(self.extents) == 2

    def group(self):
        return self.passing, self.format, "NHWC, NC" if self.in_rows else "NCHW", self.threads, self.variant

    def peer(self, build=None):
        """Ratio of the faster of the peers in the same layout to ours, or to another build of ours; None without peers."""
        peers = [self.ratio[p] for p in IN_THE_SAME_LAYOUT if p in self.ratio]
        build_ratio = self.ratio.get(build) if build else 1
        return min(peers) / build_ratio if peers and build_ratio else None

    def limit(self, asks_ahead=False):
        """Time of the least traffic by time of ours; None where it was not measured."""
        kind = "triad" if self.passing == "backward" else "copy"
        on_device = [self.ratio[k] for k in (kind + ".runtime", kind + ".kernel") if k in self.ratio]
        if on_device:
            return min(on_device)
        if kind + ".cached" not in self.ratio or self.variant == "in_place":
            return None  # a copy of memory to itself moves nothing
        ways = (".cached", ".streamed", ".ahead") if asks_ahead else (".cached", ".streamed")
        move = min(self.ratio[kind + way] for way in ways)
        read = min(self.ratio["read" + way] for way in (("", ".ahead") if asks_ahead else ("",)))
        if self.passing == "inference":
            return move
        channels = self.extents[1]
        inputs = 2 if self.passing == "backward" else 1
        resident = self.bytes <= CACHE_BYTES if self.in_rows else inputs * self.bytes / channels <= self.second_cache
        return move if resident else move + inputs * read

    def steps(self):
        """Time of ours by that of moving the same bytes in the same order; None where it was not measured."""
        return 1 / self.ratio["steps"] if "steps" in self.ratio else None


def geometric_mean(values):
    values = [v for v in values if v is not None]
    return math.exp(sum(math.log(v) for v in values) / len(values)) if values else None


def text(value):
    return "-" if value is None else f"{value:.2f}"


def row(cells):
    return "| " + " | ".join(cells) + " |"


def bars(cases):
    """What the kernels have to reach (one thread, no variant), and what they do: rows of a table."""
    plain = [c for c in cases if c.threads == 1 and not c.variant]
    large, f32 = [c for c in plain if c.bytes > 64 << 10], [c for c in plain if c.format == "f32"]
    rows = []

    def add(what, bar, found, at_least, at_limit=()):
        """found: (value, name) pairs. at_limit: the values if ours took the time of the limit."""
        found = [(v, n) for v, n in found if v is not None]
        if not found:
            return
        worst = (min if at_least else max)(found)
        mean = geometric_mean([v for v, _ in found])
        holds = mean >= bar if at_least else mean <= bar
        beyond = sum(v < 1 for v, _ in found) if at_least else sum(v > bar for v, _ in found)
        rows.append(f"| {what} | {'>=' if at_least else '<='} {bar} | {mean:.2f} | {'yes' if holds else 'no'} |"
                    f" {text(geometric_mean(at_limit))} | {len(found)} | {beyond} | {worst[0]:.2f}: {worst[1]} |")

    def peer_row(what, bar, some, build=None):
        at_limit = [c.peer() / c.limit() if c.peer() and c.limit() else None for c in some]
        add(what, bar, [(c.peer(build), c.name) for c in some], True, at_limit)

    for build, tag in ((None, ""), ("syncbn_avx2", "AVX2: "), ("syncbn_sse2", "SSE2: ")):
        for passing, in_rows, bar in (("forward", False, 2.5), ("forward", True, 1.7), ("backward", False, 1.8), ("backward", True, 1.4)):
            some = [c for c in large if c.format == "f32" and c.passing == passing and c.in_rows == in_rows]
            peer_row(f"{tag}faster peer / ours, {passing} f32, {'NHWC, NC' if in_rows else 'NCHW'}",
                     1.5 if build == "syncbn_sse2" else bar, some, build)
        for format in ("bf16", "f16"):
            if build != "syncbn_sse2":
                some = [c for c in large if c.format == format and c.passing != "inference"]
                peer_row(f"{tag}faster peer / ours, forward and backward {format}", 1.5, some, build)
    add("oneDNN blocked / ours, forward f32, NCHW", 1.4,
        [(c.ratio.get("onednn.blocked"), c.name) for c in large if c in f32 and c.passing == "forward"], True)
    over_16mb = [c for c in f32 if c.bytes > CACHE_BYTES]
    for ask in (False, True):
        def limited(c):
            return c.limit(ask) and 1 / c.limit(ask)
        tag = ", asking ahead" if ask else ""
        for in_rows in (False, True):
            add(f"ours / limit{tag}, forward and backward f32 over 16 MB, {'NHWC, NC' if in_rows else 'NCHW'}", 1.25,
                [(limited(c), c.name) for c in over_16mb if c.passing != "inference" and c.in_rows == in_rows], False)
        if not ask:
            add("ours / the same bytes in the same steps, forward and backward f32 over 16 MB, NCHW", 1.25,
                [(c.steps(), c.name) for c in over_16mb], False)
        add(f"ours / copy{tag}, inference f32 over 16 MB", 1.05,
            [(limited(c), c.name) for c in over_16mb if c.passing == "inference"], False)
    for passing in ("forward", "backward"):
        add(f"ours / {'copy' if passing == 'forward' else 'triad'} in cache, {passing} f32, 64 KB to 1 MB", 2.5,
            [(c.limit() and 1 / c.limit(), c.name) for c in f32 if 64 << 10 < c.bytes <= 1 << 20 and c.passing == passing], False)
    add("-O2 / -O3, forward and backward, all types", 1.05,
        [(c.ratio.get(c.ours + "_O2"), c.name) for c in large if c.passing != "inference"], False)
    add("oneDNN / ours, 2x16 f32", 2, [(c.ratio.get("onednn"), c.name) for c in f32 if c.extents == [2, 16]], True)
    return [
        "| what | bar | geometric mean | holds | at the limit | cases | beyond | worst |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ] + rows


def tables(cases):
    """Means of groups of cases, and each case."""
    shown = [p for p in PEERS if any(p in c.ratio for c in cases)]
    lines = [
        "Geometric means over tensors of more than 64 KB; below 1 x limit would be faster than the memory:",
        "",
        "| pass | format | layout | threads | variant | cases | faster peer | least | oneDNN blocked | copy first | time / limit (over 16 MB) | asking ahead | time / steps |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    groups = {}
    for c in cases:
        if c.bytes > 64 << 10:
            groups.setdefault(c.group(), []).append(c)
    for key, group in groups.items():
        peers = [c.peer() for c in group if c.peer()]
        large = [c for c in group if c.limit() and c.bytes > CACHE_BYTES]
        lines.append(
            "| " + " | ".join(str(k) or "-" for k in key)
            + f" | {len(group)} | {text(geometric_mean(peers))} | {text(min(peers, default=None))}"
            + f" | {text(geometric_mean([c.ratio.get('onednn.blocked') for c in group]))}"
            + f" | {text(geometric_mean([c.ratio.get(c.ours + '.copied') for c in group]))}"
            + f" | {text(geometric_mean([1 / c.limit() for c in large]))}"
            + f" | {text(geometric_mean([1 / c.limit(asks_ahead=True) for c in large]))}"
            + f" | {text(geometric_mean([c.steps() for c in large]))} |")
    lines += [
        "",
        row(["case", "us", *(PEERS[p] for p in shown), "time / limit", "time / steps"]),
        row(["---"] * (len(shown) + 4)),
    ]
    for c in cases:
        limit = c.limit()
        ratios = [c.ratio.get(p) for p in shown] + [limit and 1 / limit, c.steps()]
        lines.append(row([c.name, f"{c.microseconds:.1f}", *map(text, ratios)]))
    return lines


def markdown(cases, context):
    machine = context.get("device") or f"{context['num_cpus']} processors at {context['mhz_per_cpu']} MHz"
    lines = [f"{context['date']}, {machine}. Ours: {cases[0].ours}, {context.get('compiler')}. Peers: {context.get('peers')}.", ""]
    if "device" not in context:
        lines += [
            "*At the limit*: the mean that kernels would reach which take the time of the limit. *Beyond*: cases below 1 where"
            " more is better, else above the bar.",
            "",
            *bars(cases),
            "",
        ]
    return "\n".join(lines + tables(cases)) + "\n"


def chart(cases, file):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "syncbn"
    import matplotlib.pyplot as plt

    shown = [c for c in cases if c.format == "f32" and c.threads == 1 and not c.variant and c.bytes > 64 << 10]
    on_device = cases[0].ours == "syncbn_cuda"
    figure, axes = plt.subplots(1, 2, figsize=(12, 0.22 * len(shown) / 2 + 2), sharex=True)
    for axis, passing in zip(axes, ("forward", "backward")):
        rows = [c for c in shown if c.passing == passing]
        for y, c in enumerate(rows):
            for peer, marker in MARKERS.items():
                if peer in c.ratio:
                    axis.plot(c.ratio[peer], y, marker, color={"o": "C0", "s": "C1", "^": "C2"}[marker], markersize=4)
            if c.limit():
                axis.plot(c.limit(), y, "|", color="black")
        axis.axvline(1, color="gray", linewidth=0.5)
        axis.set_xscale("log")
        axis.margins(y=0.01)
        axis.set_yticks(range(len(rows)), [re.sub("^[a-z]+/f32/|/t1$", "", c.name) for c in rows], fontsize=6)
        axis.set_title(f"{passing}, f32" + ("" if on_device else ", one thread"))
        legend = "o cuDNN, square LibTorch, triangle cuDNN persistent" if on_device else "o oneDNN, square LibTorch, triangle oneDNN blocked"
        axis.set_xlabel(f"time / time of syncbn  ({legend}, | limit)", fontsize=7)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json")
    parser.add_argument("--markdown")
    parser.add_argument("--chart")
    arguments = parser.parse_args()
    with open(arguments.json) as file:
        data = json.load(file)
    caches = [cache["size"] for cache in data["context"].get("caches", ()) if cache["level"] == 2]
    second_cache = min(caches, default=2 << 20)
    cases = [Case(row, second_cache) for row in data["benchmarks"] if not row.get("error_occurred")]
    table = markdown(cases, data["context"])
    if arguments.markdown:
        with open(arguments.markdown, "w") as file:
            file.write(table)
    else:
        sys.stdout.write(table)
    if arguments.chart:
        chart(cases, arguments.chart)


if __name__ == "__main__":
    main()
