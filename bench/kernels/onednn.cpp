// oneDNN's batch normalization, by the API of version 2 or 3: in the layout of the case, and in its own blocked one.

#include <cstdio>
#include <memory>
#include <unordered_map>
#include <vector>

#include <dnnl.hpp>
#include <omp.h>

#include "case.hpp"

namespace bench {
namespace {

using dnnl::batch_normalization_backward;
using dnnl::batch_normalization_forward;
using dnnl::memory;
using dnnl::normalization_flags;
using dnnl::prop_kind;

memory::data_type type_of(Format format) {
  switch (format) {
    case Format::f32:
      return memory::data_type::f32;
    case Format::bf16:
      return memory::data_type::bf16;
    case Format::f16:
      return memory::data_type::f16;
    case Format::f64:
      break;
  }
  return memory::data_type::undef;
}

memory::format_tag blocked_tag(std::size_t rank) {
  const dnnl::cpu_isa isa = dnnl::get_effective_cpu_isa();
  const bool of_8 = isa == dnnl::cpu_isa::sse41 || isa == dnnl::cpu_isa::avx || isa == dnnl::cpu_isa::avx2;
  switch (rank) {
    case 3:
      return of_8 ? memory::format_tag::nCw8c : memory::format_tag::nCw16c;
    case 4:
      return of_8 ? memory::format_tag::nChw8c : memory::format_tag::nChw16c;
    case 5:
      return of_8 ? memory::format_tag::nCdhw8c : memory::format_tag::nCdhw16c;
    default:
      return memory::format_tag::undef;
  }
}

constexpr float eps = 1e-5F;

batch_normalization_forward::primitive_desc forward_desc(const dnnl::engine& engine, prop_kind kind,
                                                         const memory::desc& data, normalization_flags flags) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine, kind, data, data, eps, flags};
#else
  return {batch_normalization_forward::desc(kind, data, eps, flags), engine};
#endif
}
batch_normalization_backward::primitive_desc backward_desc(const dnnl::engine& engine, const memory::desc& data,
                                                           normalization_flags flags,
                                                           const batch_normalization_forward::primitive_desc& hint) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine, prop_kind::backward, data, data, data, eps, flags, hint};
#else
  return {batch_normalization_backward::desc(prop_kind::backward, data, data, eps, flags), engine, hint};
#endif
}

// Everything of one case; kept alive by its Run.
class Problem {
 public:
  Problem(const Case& c, const Buffers& buffers, bool blocked)
      : plain_(c.extents, type_of(c.format), c.strides()),
        data_(blocked ? memory::desc(c.extents, type_of(c.format), blocked_tag(c.extents.size())) : plain_),
        output_(c.pass == Pass::backward ? DNNL_ARG_DIFF_SRC : DNNL_ARG_DST),
        y_(buffers.y) {
    const bool inference = c.pass == Pass::inference;
    auto flags = c.affine ? normalization_flags::use_scale | normalization_flags::use_shift : normalization_flags::none;
    if (inference) flags |= normalization_flags::use_global_stats;
    const auto forward =
        forward_desc(engine_, inference ? prop_kind::forward_inference : prop_kind::forward_training, data_, flags);
    arguments_.emplace(DNNL_ARG_SRC, tensor(buffers.x));
    arguments_.emplace(DNNL_ARG_DST, tensor(buffers.y));
    arguments_.emplace(DNNL_ARG_MEAN, per_channel(c, {}, 0));
    arguments_.emplace(DNNL_ARG_VARIANCE, per_channel(c, {}, 1));
    if (c.affine) {
      arguments_.emplace(DNNL_ARG_SCALE, per_channel(c, buffers.weight, 1));
      arguments_.emplace(DNNL_ARG_SHIFT, per_channel(c, buffers.bias, 0));
    }
    primitive_ = batch_normalization_forward(forward);
    if (c.pass != Pass::backward) return;
    run();  // mean and variance
    arguments_.emplace(DNNL_ARG_DIFF_DST, tensor(buffers.dy));
    arguments_.emplace(DNNL_ARG_DIFF_SRC, arguments_.at(DNNL_ARG_DST));
    if (c.affine) {
      arguments_.emplace(DNNL_ARG_DIFF_SCALE, per_channel(c, {}, 0));
      arguments_.emplace(DNNL_ARG_DIFF_SHIFT, per_channel(c, {}, 0));
    }
    arguments_.erase(DNNL_ARG_DST);
#if DNNL_VERSION_MAJOR >= 3
    arguments_.erase(DNNL_ARG_SHIFT);  // no input of the gradient; version 2 wants it all the same, on some processors
#endif
    primitive_ = batch_normalization_backward(backward_desc(engine_, data_, flags, forward));
  }

  void run() {
    primitive_.execute(stream_, arguments_);
    stream_.wait();
  }
  const std::byte* result() {
    if (data_ != plain_) reorder(arguments_.at(output_), memory(plain_, engine_, y_));
    return y_;
  }

 private:
  void reorder(memory from, memory to) {
    dnnl::reorder(from, to).execute(stream_, from, to);
    stream_.wait();
  }
  memory tensor(std::byte* bytes) {
    memory given(plain_, engine_, bytes);
    if (data_ == plain_) return given;
    memory result(data_, engine_);
    reorder(given, result);
    return result;
  }
  memory per_channel(const Case& c, const std::vector<float>& values, float otherwise) {
    memory result(memory::desc({c.channels()}, memory::data_type::f32, memory::format_tag::x), engine_);
    auto* to = static_cast<float*>(result.get_data_handle());
    for (std::size_t k = 0; k < static_cast<std::size_t>(c.channels()); ++k) {
      to[k] = values.empty() ? otherwise : values[k];
    }
    return result;
  }

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  memory::desc plain_;
  memory::desc data_;
  int output_;
  std::byte* y_;
  dnnl::primitive primitive_;
  std::unordered_map<int, memory> arguments_;
};

Run make(const Case& c, const Buffers& buffers, bool blocked) {
  if (c.sliced) return {};  // takes inputs and outputs of the same strides only
  if (type_of(c.format) == memory::data_type::undef) return {};
  if (blocked && (blocked_tag(c.extents.size()) == memory::format_tag::undef || c.in_place)) return {};
  try {
    const auto problem = std::make_shared<Problem>(c, buffers, blocked);
    return {[problem, threads = c.threads] {
              omp_set_num_threads(threads);
              problem->run();
            },
            [problem] { return problem->result(); }};
  } catch (const dnnl::error& e) {
    std::fprintf(stderr, "%s: oneDNN%s does not take part: %s\n", c.text().c_str(), blocked ? ", blocked," : "",
                 e.what());
    return {};
  }
}

}  // namespace

std::vector<Contender> contenders_onednn() {
  return {{"onednn", [](const Case& c, const Buffers& b) { return make(c, b, false); }},
          {"onednn.blocked", [](const Case& c, const Buffers& b) {
             return c.layout == Layout::channels_first ? make(c, b, true) : Run();
           }}};
}

}  // namespace bench
