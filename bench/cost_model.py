#!/usr/bin/env python3
"""bench/cost_model.py [--latency US --bandwidth GB/S | --fabric FILE] [--markdown FILE] [--chart FILE]

What the exchange of one synchronized forward pass costs on P ranks, by the usual model: a message of n bytes takes
latency + n / bandwidth. Ours is an all-reduce of a constant number of words; what PyTorch does is an all-gather of 2 C + 1
words of 4 bytes from each rank, which every rank then merges. docs/benchmarks.md says where the figures come from.

  all-reduce, tree     ceil(log2 P) rounds of the whole frame (recursive doubling)
  all-reduce, ring     2 (P - 1) rounds of a P-th of the frame
  all-gather, tree     ceil(log2 P) rounds, (P - 1) parts in all (recursive doubling)
  all-gather, ring     P - 1 rounds of a part

With --fabric, latency and bandwidth are those that explain what bench_fabric measured for two ranks (its first lines).

Each is taken at the better of tree and ring. Adding words up and merging parts are counted at the memory bandwidth of a
core. Assumed: links that do not share bandwidth, ranks that arrive together, no overlap with the passes over the tensor.
"""

import argparse
import math

HEADER_WORDS = 512
HEADER_CAPACITY = 495
MERGE_BYTES_PER_SECOND = 10e9
RANKS = [2, 4, 8, 16, 64, 256, 1024, 4096, 16384]
CHANNELS = [64, 512, 2048]


def all_reduce(ranks, size, latency, bandwidth):
    rounds = math.ceil(math.log2(ranks))
    tree = rounds * (latency + size / bandwidth + size / MERGE_BYTES_PER_SECOND)
    steps = 2 * (ranks - 1)
    part = size / ranks
    ring = steps * (latency + part / bandwidth) + (ranks - 1) * part / MERGE_BYTES_PER_SECOND
    return min(tree, ring)


def all_gather(ranks, part, latency, bandwidth):
    moved = (ranks - 1) * part / bandwidth
    merged = ranks * part / MERGE_BYTES_PER_SECOND
    return min(math.ceil(math.log2(ranks)) * latency, (ranks - 1) * latency) + moved + merged


def frames(channels):
    """Words of the frames of an exchange in one block: see exchange.hpp."""
    words = 2 * channels
    return [HEADER_WORDS] if words <= HEADER_CAPACITY else [HEADER_WORDS, words + 3]


def ours(ranks, channels, latency, bandwidth):
    """All frames, one after the other; the first of several hides behind the pass over x, which is not counted here."""
    return sum(all_reduce(ranks, 8 * words, latency, bandwidth) for words in frames(channels))


def gathered(ranks, channels, latency, bandwidth):
    return all_gather(ranks, 4 * (2 * channels + 1), latency, bandwidth)


def measured(file):
    """Latency and bandwidth from t = frames * latency + bytes / bandwidth, for the least and the most channels."""
    with open(file) as lines:
        rows = [[float(cell) for cell in line.strip(" |\n").split("|")] for line in lines if line.startswith("| 2 |")]
    (_, _, few_frames, few_bytes, few_us), (_, _, many_frames, many_bytes, many_us) = rows[0][:5], rows[2][:5]
    seconds_per_byte = (many_us * few_frames - few_us * many_frames) / (many_bytes * few_frames - few_bytes * many_frames) * 1e-6
    latency = (few_us * 1e-6 - few_bytes * seconds_per_byte) / few_frames
    if seconds_per_byte <= 0 or latency <= 0:
        raise SystemExit(f"{file}: the times fit no latency and bandwidth")
    return latency, 1 / seconds_per_byte


def table(latency, bandwidth):
    lines = [
        f"Microseconds by the model, {1e6 * latency:.3g} us and {bandwidth / 1e9:.3g} GB/s a message; bytes that a rank receives:",
        "",
        "| ranks | " + " | ".join(f"C = {c}: all-reduce | all-gather | bytes | bytes" for c in CHANNELS) + " |",
        "| --- |" + " --- |" * (4 * len(CHANNELS)),
    ]
    for ranks in RANKS:
        cells = []
        for c in CHANNELS:
            words = sum(frames(c))
            cells += [
                f"{1e6 * ours(ranks, c, latency, bandwidth):.0f}",
                f"{1e6 * gathered(ranks, c, latency, bandwidth):.0f}",
                f"{8 * words * math.ceil(math.log2(ranks))}",
                f"{4 * (2 * c + 1) * (ranks - 1)}",
            ]
        lines.append(f"| {ranks} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def chart(latency, bandwidth, file):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "syncbn"
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4))
    for i, c in enumerate(CHANNELS):
        for function, style, name in ((ours, "-", "all-reduce (ours)"), (gathered, "--", "all-gather")):
            axis.plot(RANKS, [1e6 * function(p, c, latency, bandwidth) for p in RANKS], style, color=f"C{i}", label=f"{name}, C = {c}")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("ranks")
    axis.set_ylabel("us for one exchange")
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=2.0, help="us a message")
    parser.add_argument("--bandwidth", type=float, default=10.0, help="GB/s a link")
    parser.add_argument("--fabric", help="output of bench_fabric")
    parser.add_argument("--markdown")
    parser.add_argument("--chart")
    arguments = parser.parse_args()
    latency, bandwidth = arguments.latency * 1e-6, arguments.bandwidth * 1e9
    if arguments.fabric:
        latency, bandwidth = measured(arguments.fabric)
    text = table(latency, bandwidth)
    if arguments.markdown:
        with open(arguments.markdown, "w") as file:
            file.write(text)
    else:
        print(text, end="")
    if arguments.chart:
        chart(latency, bandwidth, arguments.chart)


if __name__ == "__main__":
    main()
