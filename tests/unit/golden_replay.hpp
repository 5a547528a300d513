#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <syncbn/functional.hpp>
#include <syncbn/syncbn.hpp>

#include "conformance/backend_tensor.hpp"
#include "support/activations.hpp"
#include "support/catch.hpp"
#include "support/golden.hpp"
#include "support/layer_bounds.hpp"

// Replays a golden case through whatever runs one, and judges it. A runner has
//   Activations<T> forward(const Activations<T>& x, bool training, bool track, Layout layout_of_y)
//   Gradients backward(const Activations<T>& dy, Layout layout_of_dx)      through the last forward()
//   RunningState state(), void set_state(const RunningState&)
// and may be called by the main thread only.

namespace syncbn_test {

inline std::vector<GoldenCase> golden_cases(const char* file) {
  return read_golden(std::filesystem::path(SYNCBN_GOLDEN_DIR) / file);
}

inline Layout layout_named(const std::string& word) {
  for (const Layout layout : all_layouts) {
    if (word == name(layout)) return layout;
  }
  throw GoldenError("no such layout: " + word);
}

inline Numbers golden_numbers(const GoldenCase& c, const std::string& key) {
  return c.has(key) ? oracle::numbers(c.tensor(key).values) : Numbers();
}

inline std::vector<Index> golden_extents(const GoldenCase& c, const std::string& key) {
  const auto& shape = c.tensor(key).shape;
  return {shape.begin(), shape.end()};
}

inline std::optional<double> golden_momentum(const GoldenCase& c) {
  if (c.text("momentum") == "none") return std::nullopt;
  return c.scalar("momentum");
}

struct RunningState {
  Numbers mean, var;  // empty where absent
  std::int64_t batches = 0;
};

struct LayerGradients {
  Numbers x, weight, bias;  // of weight and bias: sums over ranks; empty where absent
};

/// @brief What a case starts from. `buffers` and `affine` are those of a layer; the functional form may have halves.
struct GoldenStart {
  explicit GoldenStart(const GoldenCase& c)
      : channels(c.integer("channels")),
        options{c.scalar("eps"), golden_momentum(c), c.has("weight") || c.has("bias"),
                c.has("running_mean") || c.has("running_var")},
        weight(golden_numbers(c, "weight")),
        bias(golden_numbers(c, "bias")),
        running{golden_numbers(c, "running_mean"), golden_numbers(c, "running_var"),
                c.has("num_batches_tracked") ? c.integer("num_batches_tracked") : 0} {}

  Index channels;
  syncbn::BatchNormOptions options;
  Numbers weight, bias;
  RunningState running;
};

inline Number epsilon_named(const std::string& dtype) {
  return dtype == "f64" ? epsilon_of<double> : dtype == "f32" ? epsilon_of<float> : epsilon_of<syncbn::BFloat16>;
}

/// @brief How far PyTorch's answers lie from the exact ones, in epsilons of the result's type times the size of its
/// terms: measured when the files were made (README.md there).
inline constexpr Number golden_units = 3;

/// @brief Everything a replay computed, to be compared bit by bit with another replay of the same case.
using Transcript = std::vector<Numbers>;

inline bool same_bits(const Transcript& a, const Transcript& b) {
  const auto same = [](Number p, Number q) { return p == q ? std::signbit(p) == std::signbit(q) : p != p && q != q; };
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [&](const Numbers& p, const Numbers& q) {
           return std::equal(p.begin(), p.end(), q.begin(), q.end(), same);
         });
}

/// @brief Judges one case. @tparam T  of tensors. @tparam P  of parameters.
template <class T, class P>
class GoldenReplay {
 public:
  GoldenReplay(const GoldenCase& golden, int ranks)
      : golden_(golden), start_(golden), before_(start_.running), ranks_(ranks) {
    // The library has no 16-bit parameters: such cases run with f32 ones, and PyTorch's rounding is PyTorch's error.
    reference_element_ = epsilon_named(golden.text("dtype"));
    reference_parameter_ = epsilon_named(golden.text("parameter_dtype"));
  }

  template <class Runner>
  Transcript run(Runner& runner, Layout layout, Layout dy_layout) {
    const bool functional = golden_.text("kind") == "functional";
    const int steps = functional ? 1 : static_cast<int>(golden_.integer("steps"));
    for (int step = 0; step < steps; ++step) {
      const std::string at = "." + std::to_string(step);
      const bool training = golden_.integer(functional ? "training" : "training" + at) != 0;
      const bool track = functional || golden_.integer("track" + at) != 0;
      const Activations<T> x(golden_extents(golden_, "x" + at), golden_.tensor("x" + at).values, layout);
      const Activations<T> y = runner.forward(x, training, track, layout);
      judge_forward(step, x, y, training, track, runner.state());
      runner.set_state(before_);
    }
    const Activations<T> dy(golden_extents(golden_, "dy"), golden_.tensor("dy").values, dy_layout);
    judge_backward(dy.numbers(), runner.backward(dy, layout));
    return transcript_;
  }

  const Comparison& comparison() const { return comparison_; }
  /// @brief What must be equal and is not; empty if all is well.
  const std::string& violations() const { return violations_; }

 private:
  void require(bool holds, const std::string& what) {
    if (!holds) violations_ += what + "\n";
  }

  void judge_forward(int step, const Activations<T>& x, const Activations<T>& y, bool training, bool track,
                     const RunningState& after) {
    const std::string at = "." + std::to_string(step);
    const oracle::Shape shape = shape_of(x.extents());
    const bool batch_statistics = training || (before_.mean.empty() && before_.var.empty());
    const bool tracked = training && track && !(before_.mean.empty() && before_.var.empty());
    const bool empty = shape.elements_per_channel() == 0;
    const double eps = start_.options.eps;
    bounds_ = batch_statistics
                  ? LayerBounds::of_batch<T, P>(x.numbers(), shape, start_.weight, start_.bias, eps, ranks_)
                  : LayerBounds::of_running<T, P>(x.numbers(), shape, before_.mean, before_.var, start_.weight,
                                                  start_.bias, eps);
    shape_ = shape;

    const Numbers got = y.numbers();
    comparison_.add("y" + at, got, golden_numbers(golden_, "y" + at), shape, [&](std::size_t i, std::size_t c) {
      return bounds_->y(i, c) + golden_units * reference_element_ * bounds_->y_terms(c);
    });
    // Deliberate difference: where PyTorch is some epsilons of |x| off, a constant channel gives the bias, exactly.
    if (batch_statistics) {
      oracle::detail::for_each_element(shape, [&](std::size_t i, std::size_t c) {
        if (bounds_->facts(c).channel.m2 != 0) return;
        const Number bias = value_of(element<T>(oracle::detail::value_or(start_.bias, c, 0)));
        require(got[i] == bias, "constant channel: y is not the bias");
      });
    }
    judge_state(at, after, tracked, empty);
    transcript_.insert(transcript_.end(), {got, after.mean, after.var});
  }

  // Leaves in before_ what the next step starts from: PyTorch's state, so that a step's bound is that of one step.
  void judge_state(const std::string& at, const RunningState& after, bool tracked, bool empty) {
    RunningState expected{golden_numbers(golden_, "running_mean" + at), golden_numbers(golden_, "running_var" + at),
                          after.batches};
    // Deliberate difference: PyTorch counts a batch without elements; the library does not.
    if (tracked && empty) ++uncounted_;
    if (golden_.has("num_batches_tracked" + at)) {  // the functional form has none
      expected.batches = golden_.integer("num_batches_tracked" + at) - uncounted_;
      require(after.batches == expected.batches, "num_batches_tracked" + at + " is " + std::to_string(after.batches));
    }

    if (tracked && !empty) {
      const Number factor = oracle::update_factor(start_.options.momentum, after.batches);
      const bool skewed = !start_.options.momentum && uncounted_ > 0;
      Number units = golden_units;
      if (skewed) {  // the empty batches weigh in PyTorch's average: here the average of all others is expected
        for (std::size_t c = 0; c < before_.mean.size(); ++c) {
          const bounds::ChannelFacts& f = bounds_->facts(c).channel;
          expected.mean[c] = (1 - factor) * before_.mean[c] + factor * f.mean;
          expected.var[c] = (1 - factor) * before_.var[c] + factor * f.m2 / (f.count - 1);
        }
        units = 0;
      }
      comparison_.add("running_mean" + at, after.mean, expected.mean, [&](std::size_t c) {
        const Update update{before_.mean[c], factor};
        return bounds_->running_mean(c, update) + units * reference_parameter_ * bounds_->running_mean_terms(c, update);
      });
      comparison_.add("running_var" + at, after.var, expected.var, [&](std::size_t c) {
        const Update update{before_.var[c], factor};
        return bounds_->running_var(c, update) + units * reference_parameter_ * bounds_->running_var_terms(c, update);
      });
    } else {
      require(after.mean == before_.mean, "running_mean" + at + " changed");
      require(after.var == before_.var, "running_var" + at + " changed");
      require(expected.mean == before_.mean && expected.var == before_.var, "PyTorch's running statistics changed");
    }
    before_ = expected;
  }

  void judge_backward(const Numbers& dy, const LayerGradients& got) {
    bounds_->set_gradient(dy);
    comparison_.add("dx", got.x, golden_numbers(golden_, "dx"), shape_, [&](std::size_t i, std::size_t c) {
      return bounds_->dx(i, c) + golden_units * reference_element_ * bounds_->dx_terms(c);
    });
    comparison_.add("weight_grad", got.weight, golden_numbers(golden_, "weight_grad"), [&](std::size_t c) {
      return bounds_->weight_grad(c) + golden_units * reference_parameter_ * bounds_->weight_grad_terms(c);
    });
    // In layouts that it has no kernel for, PyTorch rounds this one to bfloat16 although its type is f32.
    const std::string& layout = golden_.text("layout");
    const bool rounded = golden_.text("dtype") == "bf16" &&
                         (layout == "permuted" || (layout == "channels_last" && golden_.integer("dims") == 3));
    const Number reference = rounded ? epsilon_of<syncbn::BFloat16> : reference_parameter_;
    comparison_.add("bias_grad", got.bias, golden_numbers(golden_, "bias_grad"), [&](std::size_t c) {
      return bounds_->bias_grad(c) + golden_units * reference * bounds_->bias_grad_terms(c);
    });
    transcript_.insert(transcript_.end(), {got.x, got.weight, got.bias});
  }

  const GoldenCase& golden_;
  GoldenStart start_;
  RunningState before_;
  int ranks_;
  Number reference_element_, reference_parameter_;
  int uncounted_ = 0;
  std::optional<LayerBounds> bounds_;
  oracle::Shape shape_;
  Comparison comparison_;
  std::string violations_;
  Transcript transcript_;
};

/// @brief Replays a case in its own layouts and in all others; every replay must agree with the file, and they with each
/// other to the bit, if the backend promises that. @param make_runner  makes a runner in the case's initial state.
/// @return the transcript. @tparam T  of tensors.
template <class T, class Backend, class MakeRunner>
Transcript replay_in_all_layouts(const GoldenCase& golden, int ranks, const MakeRunner& make_runner) {
  const auto replay = [&](Layout layout, Layout dy_layout) {
    INFO("x is " << name(layout) << ", dy is " << name(dy_layout));
    auto runner = make_runner();
    GoldenReplay<T, typename Backend::parameter_type> judge(golden, ranks);
    const Transcript transcript = judge.run(runner, layout, dy_layout);
    INFO(judge.comparison().place());
    CHECK(judge.comparison().worst() <= 1);
    CHECK(judge.violations() == "");
    return transcript;
  };
  INFO(golden.place().file << ":" << golden.place().line << ": " << golden.name);
  const Layout dy_layout = layout_named(golden.text("dy_layout"));
  const Layout layout = layout_named(golden.text("layout"));
  const Transcript transcript = replay(layout, dy_layout);
  for (const Layout other : all_layouts) {
    if (other == layout) continue;
    for (const Layout other_dy : {dy_layout, other}) {
      const Transcript same = replay(other, other_dy);
      if (detail::same_bits_in_any_layout<Backend>()) CHECK(same_bits(same, transcript));
    }
  }
  return transcript;
}

}  // namespace syncbn_test
