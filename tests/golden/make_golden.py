#!/usr/bin/python3
"""Write the golden files of this folder: what PyTorch's batch normalization answers on small inputs.

Needs Debian 12's packages python3-torch (1.13.1) and python3-numpy; the files themselves need neither.
README.md in this folder describes the format and the keys of each kind of case.

    /usr/bin/python3 make_golden.py            write the files beside this script
    /usr/bin/python3 make_golden.py --check    fail if the files differ from what would be written
"""

import argparse
import itertools
import math
import os
import pathlib
import random
import subprocess
import sys

# Vector width changes the order of PyTorch's sums; the plain kernels are the same on every x86-64 machine.
os.environ["ATEN_CPU_CAPABILITY"] = "default"

import torch  # noqa: E402  (the line above must come first)
import torch.nn.functional as functional  # noqa: E402

DTYPES = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16}
MODULES = {1: torch.nn.BatchNorm1d, 2: torch.nn.BatchNorm2d, 3: torch.nn.BatchNorm3d}
LINE_WIDTH = 118


# ---------------------------------------------------------------------------------------------------------------------
# Text
# ---------------------------------------------------------------------------------------------------------------------

def hexadecimal(value):
    """The shortest hexadecimal form of a number that strtod reads back exactly."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    mantissa, exponent = value.hex().split("p")
    return mantissa.rstrip("0").rstrip(".") + "p" + exponent if value else "0x0p+0"


class Case:
    """One case of a golden file: scalars and tensors, in the order in which they are added."""

    def __init__(self, name):
        self.lines = [f"case {name}"]

    def scalar(self, key, value):
        if isinstance(value, bool):
            value = int(value)
        elif value is None:
            value = "none"
        elif isinstance(value, (list, tuple)):
            value = " ".join(str(item) for item in value)
        self.lines.append(f"{key} {value}")

    def tensor(self, name, tensor):
        """Values in logical order, whatever the strides of `tensor`; an absent tensor adds nothing."""
        if tensor is None:
            return
        self.lines.append(" ".join(["tensor", name, *map(str, tensor.shape)]))
        line = ""
        for value in tensor.detach().to(torch.float64).reshape(-1).tolist():
            text = hexadecimal(value)
            if line and len(line) + 1 + len(text) > LINE_WIDTH:
                self.lines.append(line)
                line = ""
            line = f"{line} {text}" if line else text
        if line:
            self.lines.append(line)

    def text(self):
        return "\n".join([*self.lines, "end"]) + "\n"


def torch_version():
    """What the module says of itself, and the Debian package, whose number is the one to trust."""
    package = subprocess.run(["dpkg-query", "-W", "-f=${Version}", "python3-torch"],
                             capture_output=True, text=True, check=False).stdout or "unknown"
    return f"{torch.__version__} (Debian python3-torch {package})"


def file_text(cases):
    head = ["# Written by make_golden.py: the answers of PyTorch's batch normalization. Do not edit.",
            "# Format and keys: README.md in this folder.",
            "format syncbn-golden 1",
            f"torch {torch_version()}",
            f"cases {len(cases)}"]
    return "\n".join(head) + "\n\n" + "\n".join(case.text() for case in cases)


# ---------------------------------------------------------------------------------------------------------------------
# Inputs
# ---------------------------------------------------------------------------------------------------------------------

def channels_of(shape):
    return shape[1] if len(shape) > 1 else 0


def with_layout(tensor, layout):
    """A tensor with the same values and shape, laid out in memory as `layout` says (see README.md)."""
    if layout == "contiguous":
        return tensor.contiguous()
    rank = tensor.dim()
    # Axes from slowest to fastest: channels_last is (N, S..., C); permuted is (C, S..., N).
    order = [0, *range(2, rank), 1] if layout == "channels_last" else [*range(1, rank), 0]
    inverse = [order.index(axis) for axis in range(rank)]
    return tensor.permute(order).contiguous().permute(inverse)


class Inputs:
    """Random tensors for one case. The generator depends on the seed only, not on any library's version."""

    def __init__(self, seed, dtype, parameter_dtype):
        self.random = random.Random(f"syncbn {seed}")
        self.dtype = DTYPES[dtype]
        self.parameter_dtype = DTYPES[parameter_dtype]

    def activations(self, shape, layout):
        """Each channel has its own mean within [-2, 2] and its own deviation within [0.5, 2]."""
        channels = channels_of(shape)
        centre = [self.random.uniform(-2, 2) for _ in range(channels)]
        scale = [self.random.uniform(0.5, 2) for _ in range(channels)]
        positions = math.prod(shape[2:])
        values = []
        for index in range(math.prod(shape)):
            channel = index // positions % channels
            values.append(centre[channel] + scale[channel] * self.random.gauss(0, 1))
        return with_layout(torch.tensor(values, dtype=torch.float64).reshape(shape).to(self.dtype), layout)

    def gradient(self, shape, layout):
        values = [self.random.gauss(0, 1) for _ in range(math.prod(shape))]
        return with_layout(torch.tensor(values, dtype=torch.float64).reshape(shape).to(self.dtype), layout)

    def parameter(self, channels, low, high, signed=True):
        values = [self.random.uniform(low, high) * (self.random.choice([-1, 1]) if signed else 1)
                  for _ in range(channels)]
        return torch.tensor(values, dtype=torch.float64).to(self.parameter_dtype)

    def state(self, channels):
        """weight, bias, running_mean, running_var: none of them at its default."""
        return (self.parameter(channels, 0.5, 1.5), self.parameter(channels, 0, 1),
                self.parameter(channels, 0, 1), self.parameter(channels, 0.5, 2, signed=False))


# ---------------------------------------------------------------------------------------------------------------------
# A covering array: rows of factor values such that every feasible pair of values occurs in some row
# ---------------------------------------------------------------------------------------------------------------------

def covering_rows(factors, feasible, extra_targets=()):
    """Deterministic greedy search.

    factors: {name: list of values}; feasible(partial row) -> bool, decided by pairs of factors;
    extra_targets: further partial rows, as dicts, that some row must contain.
    """
    names = list(factors)
    pairs = [{first: a, second: b} for first, second in itertools.combinations(names, 2)
             for a in factors[first] for b in factors[second]]
    uncovered = [target for target in [*extra_targets, *pairs] if feasible(target)]
    rows = []
    while uncovered:
        candidates = [complete_row(uncovered[0], names[turn:] + names[:turn], factors, feasible, uncovered)
                      for turn in range(len(names))]
        best = max(candidates, key=lambda row: sum(contains(row, target) for target in uncovered))
        uncovered = [target for target in uncovered if not contains(best, target)]
        rows.append({name: best[name] for name in names})
    return rows


def contains(row, target):
    return all(row.get(name) == value for name, value in target.items())


def complete_row(seed, names, factors, feasible, uncovered):
    """Extend a partial row factor by factor, each time by the value that completes the most uncovered targets.

    Among equals the value that leaves most targets still reachable wins, then the one listed first.
    """
    row = dict(seed)
    for name in names:
        if name in row:
            continue

        def gain(value):
            extended = {**row, name: value}
            relevant = [t for t in uncovered if t.get(name) == value]
            done = sum(contains(extended, t) for t in relevant)
            reachable = sum(all(extended.get(n, v) == v for n, v in t.items()) for t in relevant)
            return done, reachable

        row[name] = max((v for v in factors[name] if feasible({**row, name: v})), key=gain)
    return row


# ---------------------------------------------------------------------------------------------------------------------
# Layer cases: a module, several steps, backward through the last one
# ---------------------------------------------------------------------------------------------------------------------

# name: (whether the buffers exist, (training, track flag) at each step). A flag that disagrees with the buffers was
# changed after construction.
MODES = {
    "train_tracked": (True, [(True, True), (True, True)]),
    "train_untracked": (False, [(True, False), (True, False)]),
    "train_flag_off_later": (True, [(True, False), (True, False)]),
    "train_flag_on_later": (False, [(True, True), (True, True)]),
    "train_flag_off_midway": (True, [(True, True), (True, False)]),
    "train_flag_on_midway": (True, [(True, False), (True, True)]),
    "eval_tracked": (True, [(False, True)]),
    "eval_untracked": (False, [(False, False)]),
    "eval_flag_off_later": (True, [(False, False)]),
    "eval_flag_on_later": (False, [(False, True)]),
    "train_then_eval": (True, [(True, True), (True, True), (False, True)]),
    "eval_then_train": (True, [(False, True), (True, True)]),
}

# kind: (Dims of the module, the four shapes). The shapes: odd sizes; one channel; one position; few samples.
KINDS = {
    "1d_2": (1, {"odd": (5, 3), "one_channel": (7, 1), "one_position": (4, 6), "few_samples": (3, 5)}),
    "1d_3": (1, {"odd": (5, 3, 7), "one_channel": (3, 1, 5), "one_position": (6, 5, 1), "few_samples": (1, 4, 7)}),
    "2d": (2, {"odd": (4, 5, 3, 2), "one_channel": (3, 1, 4, 3), "one_position": (6, 4, 1, 1),
               "few_samples": (1, 3, 3, 5)}),
    "3d": (3, {"odd": (3, 3, 2, 3, 2), "one_channel": (2, 1, 3, 2, 2), "one_position": (5, 3, 1, 1, 1),
               "few_samples": (1, 4, 2, 3, 2)}),
}
LAYOUTS = ["contiguous", "channels_last", "permuted"]
MOMENTA = [0.1, 0.0, 1.0, None, -0.5]
EPSILONS = [1e-5, 1e-3]


def layouts_feasible(row):
    """channels_last exists for four and five axes only."""
    flat = row.get("kind") in ("1d_2", "1d_3")
    return not (flat and "channels_last" in (row.get("layout"), row.get("dy_layout")))


def layer_rows():
    def feasible(row):
        if "mode" in row and "counter" in row and MODES[row["mode"]][0] == (row["counter"] is None):
            return False
        return layouts_feasible(row)

    factors = {"mode": list(MODES), "momentum": MOMENTA, "kind": list(KINDS), "shape": list(KINDS["2d"][1]),
               "layout": LAYOUTS, "dy_layout": LAYOUTS, "counter": [0, 7, None], "affine": [True, False],
               "eps": EPSILONS}
    # Pairs alone could leave the combinations that matter most to modes that ignore the running statistics.
    extra = [{"mode": "train_tracked", "momentum": m, "counter": c} for m in MOMENTA for c in (0, 7)]
    extra += [{"mode": mode, "kind": kind, "layout": layout} for mode in ("train_tracked", "eval_tracked")
              for kind in KINDS for layout in LAYOUTS]
    return covering_rows(factors, feasible, extra)


def make_module(dims, channels, row, parameter_dtype, inputs):
    """A module whose parameters and buffers are set to the inputs' random state."""
    buffers = row["counter"] is not None
    module = MODULES[dims](channels, eps=row["eps"], momentum=row["momentum"], affine=row["affine"],
                           track_running_stats=buffers, dtype=DTYPES[parameter_dtype])
    weight, bias, running_mean, running_var = inputs.state(channels)
    with torch.no_grad():
        if row["affine"]:
            module.weight.copy_(weight)
            module.bias.copy_(bias)
        if buffers:
            module.running_mean.copy_(running_mean)
            # A negative momentum subtracts from the variance: start where it stays positive.
            module.running_var.copy_(running_var * (16 if (row["momentum"] or 0) < 0 else 1))
            module.num_batches_tracked.fill_(row["counter"])
    return module


def describe_module(case, kind, dims, channels, row, dtype, parameter_dtype):
    case.scalar("kind", kind)
    case.scalar("dtype", dtype)
    case.scalar("parameter_dtype", parameter_dtype)
    case.scalar("dims", dims)
    case.scalar("channels", channels)
    case.scalar("eps", row["eps"])
    case.scalar("momentum", row["momentum"])
    case.scalar("affine", row["affine"])
    case.scalar("buffers", row["counter"] is not None)
    case.scalar("layout", row["layout"])
    case.scalar("dy_layout", row["dy_layout"])


def run_module(case, module, steps, batches, dy):
    """Run the steps, write state and results; dy is the gradient of the last step's output."""
    case.scalar("steps", len(steps))
    case.tensor("weight", module.weight)
    case.tensor("bias", module.bias)
    case.tensor("running_mean", module.running_mean)
    case.tensor("running_var", module.running_var)
    if module.num_batches_tracked is not None:
        case.scalar("num_batches_tracked", module.num_batches_tracked.item())
    for step, ((training, track), x) in enumerate(zip(steps, batches)):
        module.train(training)
        module.track_running_stats = track
        x.requires_grad_()
        y = module(x)
        case.scalar(f"training.{step}", training)
        case.scalar(f"track.{step}", track)
        case.tensor(f"x.{step}", x)
        case.tensor(f"y.{step}", y)
        case.tensor(f"running_mean.{step}", module.running_mean)
        case.tensor(f"running_var.{step}", module.running_var)
        if module.num_batches_tracked is not None:
            case.scalar(f"num_batches_tracked.{step}", module.num_batches_tracked.item())
    y.backward(dy)
    case.tensor("dy", dy)
    case.tensor("dx", batches[-1].grad)
    if module.weight is not None:
        case.tensor("weight_grad", module.weight.grad)
        case.tensor("bias_grad", module.bias.grad)


def layer_case(number, row, dtype, parameter_dtype):
    dims, shapes = KINDS[row["kind"]]
    shape = shapes[row["shape"]]
    inputs = Inputs(f"layer {number}", dtype, parameter_dtype)
    name = [row["mode"], row["kind"], row["shape"], row["layout"], f"dy_{row['dy_layout']}",
            "affine" if row["affine"] else "plain", f"momentum_{row['momentum']}".lower(), f"eps_{row['eps']}",
            f"counter_{row['counter']}".lower()]
    case = Case("/".join(name if parameter_dtype == dtype else [*name, f"parameters_{parameter_dtype}"]))
    describe_module(case, "layer", dims, shape[1], row, dtype, parameter_dtype)
    case.scalar("mode", row["mode"])
    module = make_module(dims, shape[1], row, parameter_dtype, inputs)
    steps = MODES[row["mode"]][1]
    # The first of several batches has one sample more than the last.
    batches = [inputs.activations((shape[0] + (step + 1 < len(steps) and step == 0), *shape[1:]), row["layout"])
               for step in range(len(steps))]
    run_module(case, module, steps, batches, inputs.gradient(shape, row["dy_layout"]))
    return case


def layer_cases(dtype):
    return [layer_case(number, row, dtype, dtype) for number, row in enumerate(layer_rows())]


def bf16_cases():
    """bfloat16 input, in a module of the same type and in one of f32 (the only mixture that PyTorch takes)."""
    factors = {"mode": ["train_tracked", "train_untracked", "eval_tracked", "train_then_eval"],
               "kind": list(KINDS), "layout": LAYOUTS, "parameters": ["f32", "bf16"]}

    def feasible(row):
        return layouts_feasible(row)

    cases = []
    for number, row in enumerate(covering_rows(factors, feasible)):
        buffers = MODES[row["mode"]][0]
        full = {"dy_layout": row["layout"], "momentum": MOMENTA[number % 2 * 3], "eps": EPSILONS[0],
                "shape": ["odd", "few_samples"][number % 2], "counter": 0 if buffers else None,
                # Without any f32 tensor of the layer's there would be no mixture.
                "affine": not buffers or number % 4 != 3, **row}
        cases.append(layer_case(f"bf16 {number}", full, "bf16", full["parameters"]))
    return cases


# ---------------------------------------------------------------------------------------------------------------------
# Split cases: the answer for all ranks together is that of one rank on the concatenated batch
# ---------------------------------------------------------------------------------------------------------------------

SPLITS = [
    [(4, 4), (3, 3)], [(5, 3), (2, 5)], [(0, 6), (7, 0)], [(1, 1), (1, 2)], [(6, 1), (1, 1)],
    [(2, 2, 2), (3, 3, 3)], [(1, 0, 5), (4, 2, 1)], [(1, 1, 1), (0, 3, 0)], [(3, 1, 4), (0, 0, 4)],
    [(2, 2, 2, 2), (1, 1, 1, 1)], [(4, 1, 0, 2), (3, 0, 1, 7)], [(1, 2, 3, 4), (4, 3, 2, 1)],
    [(0, 0, 0, 5), (0, 2, 0, 2)], [(7, 0, 0, 1), (1, 1, 0, 1)],
]
SPLIT_INNER = {"1d_2": (3,), "1d_3": (2, 5), "2d": (3, 2, 2), "3d": (2, 2, 1, 2)}


def split_rows():
    factors = {"split": list(range(len(SPLITS))), "momentum": [0.1, None, -0.5], "kind": list(KINDS), "layout": LAYOUTS,
               "dy_layout": LAYOUTS, "mode": ["train_tracked", "train_untracked"], "affine": [True, False],
               "eps": EPSILONS}
    extra = [{"mode": "train_tracked", "affine": True, "split": split} for split in factors["split"]]
    return covering_rows(factors, layouts_feasible, extra)


def split_case(number, row, dtype):
    dims, _ = KINDS[row["kind"]]
    inner = SPLIT_INNER[row["kind"]]
    samples = SPLITS[row["split"]]
    inputs = Inputs(f"split {number}", dtype, dtype)
    row = {**row, "counter": 2 if row["mode"] == "train_tracked" else None}
    counts = "_then_".join("-".join(map(str, ranks)) for ranks in samples)
    case = Case("/".join([f"split_{counts}", row["kind"], row["mode"], row["layout"], f"dy_{row['dy_layout']}",
                          "affine" if row["affine"] else "plain", f"momentum_{row['momentum']}".lower(),
                          f"eps_{row['eps']}"]))
    describe_module(case, "split", dims, inner[0], row, dtype, dtype)
    case.scalar("ranks", len(samples[0]))
    for step, ranks in enumerate(samples):
        case.scalar(f"samples.{step}", ranks)
    module = make_module(dims, inner[0], row, dtype, inputs)
    batches = [inputs.activations((sum(ranks), *inner), row["layout"]) for ranks in samples]
    run_module(case, module, MODES[row["mode"]][1], batches,
               inputs.gradient((sum(samples[-1]), *inner), row["dy_layout"]))
    return case


def split_cases(dtype):
    return [split_case(number, row, dtype) for number, row in enumerate(split_rows())]


# ---------------------------------------------------------------------------------------------------------------------
# Functional cases: each of the four channel tensors may be absent by itself
# ---------------------------------------------------------------------------------------------------------------------

# (name, shape, training, momentum, eps, present: w = weight, b = bias, m = running_mean, v = running_var)
FUNCTIONAL = [
    ("weight_only_train", (5, 3, 4), True, 0.1, 1e-5, "wmv"),
    ("bias_only_train", (4, 3, 2, 3), True, 0.1, 1e-5, "bmv"),
    ("weight_only_eval", (4, 3), False, 0.1, 1e-5, "wmv"),
    ("bias_only_eval", (2, 3, 2, 1, 3), False, 0.1, 1e-3, "bmv"),
    ("weight_only_no_buffers", (6, 2), True, 0.1, 1e-3, "w"),
    ("bias_only_no_buffers", (3, 4, 3), True, 0.1, 1e-5, "b"),
    ("running_mean_only_train", (5, 3, 2), True, 0.1, 1e-5, "wbm"),
    ("running_var_only_train", (5, 3, 2), True, 0.1, 1e-5, "wbv"),
    ("running_mean_only_plain_train", (4, 2), True, 0.25, 1e-5, "m"),
    ("running_var_only_plain_train", (4, 2), True, 0.25, 1e-5, "v"),
    ("eval_all", (3, 5, 3), False, 0.1, 1e-5, "wbmv"),
    ("eval_buffers_only", (3, 2, 3, 2), False, 0.1, 1e-3, "mv"),
    ("negative_momentum_train", (4, 3, 3), True, -0.5, 1e-5, "wbmv"),
    ("momentum_above_one_train", (4, 3, 3), True, 2.0, 1e-5, "wbmv"),
    ("momentum_one_train", (4, 3, 3), True, 1.0, 1e-5, "wbmv"),
    ("two_values_per_channel", (2, 4), True, 0.1, 1e-5, "wbmv"),
    # Row 12 of the list of upstream tests: the operator's sample inputs.
    ("sample_5_5_5", (5, 5, 5), True, 0.5, 0.6, "wbmv"),
    ("sample_3_2_4_eval", (3, 2, 4), False, -1.2, 1e-5, "wbmv"),
    ("sample_3_1", (3, 1), True, 0.0, 1e-5, "wbmv"),
    ("sample_0_train", (0,), True, 0.1, 1e-5, "mv"),  # PyTorch takes no weight here
    ("sample_0_eval", (0,), False, 0.1, 1e-5, "mv"),
    ("sample_3_2_3_4_train", (3, 2, 3, 4), True, -1.0, 0.5, "wbmv"),
    ("sample_3_2_3_4_eval", (3, 2, 3, 4), False, -1.0, 0.5, "wbmv"),
    ("sample_2_1", (2, 1), False, 0.1, 1e-5, "wbmv"),
    ("sample_1_2_3_all_absent", (1, 2, 3), True, 0.1, 1e-5, ""),
    ("sample_1_2_3_weight_only", (1, 2, 3), True, 0.0, 1e-5, "wmv"),
    ("sample_1_2_3_bias_only", (1, 2, 3), False, -1.0, 1e-5, "bmv"),
]


def functional_case(dtype, name, shape, training, momentum, eps, present, layout="contiguous", x=None, state=None):
    inputs = Inputs(f"functional {name}", dtype, dtype)
    state = state or inputs.state(channels_of(shape))
    tensors = {key: tensor.clone() if key[0] in present else None
               for key, tensor in zip(("weight", "bias", "mean", "var"), state)}
    x = inputs.activations(shape, layout) if x is None else x
    for tensor in (x, tensors["weight"], tensors["bias"]):
        if tensor is not None:
            tensor.requires_grad_()
    return run_functional(Case(f"{name}/{dtype}"), dtype, x, tensors, training, momentum, eps, layout,
                          inputs.gradient(x.shape, layout))


def run_functional(case, dtype, x, tensors, training, momentum, eps, layout, dy):
    weight, bias, mean, var = (tensors[key] for key in ("weight", "bias", "mean", "var"))
    for key, value in [("kind", "functional"), ("dtype", dtype), ("parameter_dtype", dtype),
                       ("channels", channels_of(x.shape)), ("eps", eps), ("momentum", momentum),
                       ("training", training), ("layout", layout), ("dy_layout", layout)]:
        case.scalar(key, value)
    case.tensor("weight", weight)
    case.tensor("bias", bias)
    case.tensor("running_mean", mean)
    case.tensor("running_var", var)
    y = functional.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
    y.backward(dy)
    case.tensor("x.0", x)
    case.tensor("y.0", y)
    case.tensor("running_mean.0", mean)
    case.tensor("running_var.0", var)
    case.tensor("dy", dy)
    case.tensor("dx", x.grad)
    case.tensor("weight_grad", weight.grad if weight is not None else None)
    case.tensor("bias_grad", bias.grad if bias is not None else None)
    return case


def functional_cases():
    cases = [functional_case(dtype, *arguments) for arguments in FUNCTIONAL for dtype in ("f32", "f64")]
    for layout, training in itertools.product(("channels_last", "permuted"), (True, False)):
        name = f"{layout}_{'train' if training else 'eval'}"
        cases.append(functional_case("f32", name, (3, 4, 2, 3), training, 0.1, 1e-5, "wbmv", layout))
    # Row 20: counting values, a running variance that contains zero.
    for training in (True, False):
        x = torch.arange(120, dtype=torch.float64).reshape(4, 5, 6)
        count = torch.arange(5, dtype=torch.float64)
        cases.append(functional_case("f64", f"counting_{'train' if training else 'eval'}", (4, 5, 6), training, 0.1,
                                     1e-4, "wbmv", x=x, state=(count + 1, count.clone(), 1 - count, 2 * count)))
    # Rows 1, 2 and 5: counting values under the initial running statistics.
    for shape in ((2, 5, 2), (2, 5, 2, 2), (2, 5, 2, 2, 2)):
        x = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
        initial = (torch.ones(5), torch.zeros(5), torch.zeros(5), torch.ones(5))
        cases.append(functional_case("f32", f"counting_initial_{len(shape)}_axes", shape, False, 0.1, 1e-5, "wbmv",
                                     x=x, state=initial))
    return cases


# ---------------------------------------------------------------------------------------------------------------------
# Edge cases: layers on chosen values
# ---------------------------------------------------------------------------------------------------------------------

def edge_case(name, dtype, batches, training=True, **changes):
    """A layer on given batches (nested lists or shapes of empty tensors); the state is PyTorch's initial one."""
    row = {"momentum": 0.1, "eps": 1e-5, "affine": True, "counter": 0, "layout": "contiguous",
           "dy_layout": "contiguous", **changes}
    tensors = [torch.empty(batch, dtype=DTYPES[dtype]) if isinstance(batch, tuple)
               else torch.tensor(batch, dtype=DTYPES[dtype]) for batch in batches]
    dims = max(tensors[0].dim() - 2, 1)
    channels = tensors[0].shape[1]
    inputs = Inputs(f"edge {name}", dtype, dtype)
    module = make_module(dims, channels, row, dtype, inputs)
    if "weight" in row:
        with torch.no_grad():
            module.weight.copy_(torch.tensor(row["weight"]))
    if row.get("initial", False):
        module.reset_running_stats()
    case = Case(f"{name}/{dtype}")
    describe_module(case, "edge", dims, channels, row, dtype, dtype)
    case.scalar("mode", "train_tracked" if training else "eval_tracked")
    case.scalar("empty_steps", [step for step, tensor in enumerate(tensors) if tensor.numel() == 0] or "none")
    run_module(case, module, [(training, True)] * len(tensors), tensors,
               inputs.gradient(tensors[-1].shape, "contiguous"))
    return case


def edge_cases():
    nan, inf = math.nan, math.inf
    fives = [[5.0, 5.0]] * 4
    some = [[1.0, -2.0, 0.5], [2.5, 0.25, -1.0], [0.0, 3.0, 4.0]]
    other = [[3.0, -1.0, 2.5], [-0.5, 2.25, 1.0], [2.0, 0.0, -3.5]]
    cases = []
    for dtype in ("f32", "f64"):
        cases += [
            edge_case("empty_batch_train", dtype, [(0, 3, 2, 2)]),
            edge_case("empty_batch_eval", dtype, [(0, 3, 2, 2)], training=False),
            edge_case("empty_positions_train", dtype, [(2, 3, 0)]),
            edge_case("empty_after_batch", dtype, [some, (0, 3)]),
            edge_case("batch_after_empty", dtype, [(0, 3), some]),
            edge_case("fives_after_empty_cumulative", dtype, [(0, 2), fives], momentum=None, initial=True),
            edge_case("cumulative_two_batches", dtype, [[[0.0], [2.0]], [[4.0], [8.0]]], momentum=None, initial=True),
            edge_case("momentum_one", dtype, [[[0.0], [2.0]]], momentum=1.0, initial=True),
            edge_case("momentum_two", dtype, [some, other], momentum=2.0, initial=True),
            edge_case("zero_weight", dtype, [some], weight=[0.0, 1.5, 0.0]),
            edge_case("constant_channel_zero_eps", dtype, [[[3.0, 1.0], [3.0, 2.0], [3.0, 4.0]]], eps=0.0),
            edge_case("constant_channel", dtype, [[[3.0, 1.0], [3.0, 2.0], [3.0, 4.0]]]),
            edge_case("nan_in_one_channel", dtype, [[[nan, 1.0], [3.0, 2.0], [0.5, 4.0]]]),
            edge_case("infinity_in_one_channel", dtype, [[[inf, 1.0], [3.0, 2.0], [0.5, 4.0]]]),
            edge_case("nan_in_eval", dtype, [[[nan, 1.0], [3.0, inf], [0.5, 4.0]]], training=False),
        ]
    return cases


# ---------------------------------------------------------------------------------------------------------------------

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files that exist, write nothing")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    folder = pathlib.Path(__file__).resolve().parent
    groups = {"layer_f32": layer_cases("f32"), "layer_f64": layer_cases("f64"), "layer_bf16": bf16_cases(),
              "functional": functional_cases(), "split_f32": split_cases("f32"), "split_f64": split_cases("f64"),
              "edge": edge_cases()}
    different = []
    for group, cases in groups.items():
        path = folder / f"{group}.txt"
        text = file_text(cases)
        if arguments.check:
            if not path.exists() or path.read_text() != text:
                different.append(path.name)
        else:
            path.write_text(text)
            print(f"{path.name}: {len(cases)} cases, {len(text)} bytes")
    if different:
        sys.exit(f"differ from PyTorch's answers here: {', '.join(different)}")


if __name__ == "__main__":
    main()
