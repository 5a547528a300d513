#!/usr/bin/env python3
"""inspect_kernels.py OBJECT... --cuobjdump FILE --occupancy FILE [--output FILE]

What nvcc has made of the kernels in object files, for each architecture: a table in Markdown. Fails if a kernel that moves
whole words has fewer than three loads of 16 bytes under way at once, or no such store, or if one uses local memory.
"""

import argparse
import re
import subprocess
import sys

# Of a launch, as cuda_shape.hpp has it: threads of a block.
THREADS = {"sum_kernel": 256, "map_kernel": 256, "on_chip_kernel": 512}
FORMATS = {"f": "f32", "d": "f64", "7Float16": "f16", "8BFloat16": "bf16"}


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def describe(name):
    """Kernel, width, columns, element format, tensors read; None for kernels that read no tensor."""
    m = re.search(r"\d+((?:sum|map|on_chip)_kernel)ILi(\d+)ELb([01])E(.*)", name)
    if not m:
        return None
    kernel, width, columns, rest = m.group(1), int(m.group(2)), m.group(3) == "1", m.group(4)
    if kernel == "map_kernel":
        element, inputs = re.match(r"(?:NS0_)?(f|d|7Float16|8BFloat16)E?Li([12])E", rest).groups()
    else:
        element = re.search(r"(?:Moments|Gradient)PassI(?:NS0_)?(f|d|7Float16|8BFloat16)E", rest).group(1)
        inputs = 2 if "GradientPass" in rest else 1
    parameter = "f64" if re.search(r"(?:Channel|Infer\w*|Propagate\w*)IdE", rest) or element == "d" else "f32"
    # What is done with the sums, or which coefficients: kernels that differ in it alone are much alike.
    return kernel, width, columns, FORMATS[element], int(inputs), parameter


def kernels_of(cuobjdump, path):
    """{(architecture, name): facts}"""
    facts = {}
    architecture = name = None
    for line in run(cuobjdump, "-res-usage", path).splitlines():
        if m := re.match(r"arch = sm_(\d+)", line):
            architecture = int(m.group(1))
        elif m := re.match(r" Function (\S+):", line):
            name = m.group(1)
        elif m := re.match(r"  REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, m.groups())
            facts[architecture, name] = {"registers": registers, "local": stack + local, "shared": shared}
    for line in run(cuobjdump, "-sass", path).splitlines():
        if m := re.match(r"arch = sm_(\d+)", line):
            architecture = int(m.group(1))
        elif m := re.search(r"Function : (\S+)", line):
            kernel = facts[architecture, m.group(1)]
            kernel.update(loads=0, stores=0, in_flight=0)
            under_way = []  # registers of words that were asked for and that nothing has read since, as the code lies
        elif m := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d\s+)?([A-Z][A-Z0-9_.]*)([^;]*);", line):
            code, operands = m.groups()
            registers = [int(r) for r in re.findall(r"\bR(\d+)\b", operands)]
            read = registers if code.startswith("ST") else registers[1:]
            under_way = [word for word in under_way if not word.intersection(read)]
            if code.startswith("LDG") and ".128" in code:
                kernel["loads"] += 1
                under_way.append(set(range(registers[0], registers[0] + 4)))
                kernel["in_flight"] = max(kernel["in_flight"], len(under_way))
            kernel["stores"] += code.startswith("STG") and ".128" in code
            kernel["local"] += code.startswith(("LDL", "STL"))
    return facts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("objects", nargs="+")
    parser.add_argument("--cuobjdump", required=True)
    parser.add_argument("--occupancy", required=True)
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--output")
    options = parser.parse_args()

    rows = {}
    failures = []
    for path in options.objects:
        for (architecture, name), facts in kernels_of(options.cuobjdump, path).items():
            if facts["local"]:
                failures.append(f"sm_{architecture} {name}: local memory")
            key = describe(name)
            if key is None:
                continue
            # Of kernels that are much alike, the one with the most registers.
            group = rows.setdefault(key, {})
            if architecture not in group or group[architecture]["registers"] < facts["registers"]:
                group[architecture] = facts
            kernel, width, columns, element, inputs, parameter = key
            # It may ask for all shared memory of a block: there is none to be its own, but for what the driver reserves.
            if kernel == "on_chip_kernel" and facts["shared"] not in (0, 1024):
                failures.append(f"sm_{architecture} {name}: static shared memory")
            if width * int(element.strip("bf")) // 8 < 16:
                continue
            # With two blocks on a multiprocessor these are 24 KiB that it waits for; less where numbers are double, and slow.
            in_flight = 2 if kernel == "on_chip_kernel" and parameter == "f64" and width > 2 else 3
            if facts["in_flight"] < in_flight:
                failures.append(f"sm_{architecture} {name}: {facts['in_flight']} loads of 16 bytes in flight")
            if kernel != "sum_kernel" and facts["stores"] < 1:
                failures.append(f"sm_{architecture} {name}: no store of 16 bytes")

    architectures = sorted({a for group in rows.values() for a in group})
    lines = [
        "| kernel | unit | tensors | parameters | " + " | ".join(f"sm_{a}" for a in architectures) + " |",
        "| --- | --- | --- | --- | " + " | ".join("---" for _ in architectures) + " |",
    ]
    for key in sorted(rows):
        kernel, width, columns, element, inputs, parameter = key
        unit = "1 of any strides" if width == 1 else f"{width} {'channels' if columns else 'values'}"
        cells = []
        for architecture in architectures:
            facts = rows[key].get(architecture)
            if facts is None:
                cells.append("-")
                continue
            threads = THREADS[kernel]
            occupancy = run(options.occupancy, str(architecture), str(facts["registers"]), str(threads), str(facts["shared"]))
            cells.append(f"{facts['registers']}, {occupancy.strip()} %, {facts['in_flight']} / {facts['stores']}")
        lines.append(f"| `{kernel}` | {unit} | {inputs} of {element} | {parameter} | " + " | ".join(cells) + " |")

    version = re.search(r"V([\d.]+)", run(options.nvcc, "--version")).group(1)
    text = f"""# CUDA kernels, as compiled

Written by `tools/cuda_kernels` from the machine code of nvcc {version}. In each cell: registers of a thread; threads that a
multiprocessor keeps resident at best, of those that it can (`cuda_occupancy.h`, with the static shared memory alone, in blocks
of {THREADS['sum_kernel']} threads, `on_chip_kernel` {THREADS['on_chip_kernel']}); loads of 16 bytes that are under way at once, as the code lies: asked for,
and nothing has read them yet, three at least (`on_chip_kernel` with parameters of double: two); stores of 16 bytes in the
code. Of kernels that differ only in what is done with the sums, the one with the most registers. No kernel spills or uses
local memory: that is an error of the build. None of this says how fast a kernel is.

"""
    text += "\n".join(lines) + "\n"
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        print(text)
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
