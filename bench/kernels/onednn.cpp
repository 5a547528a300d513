// oneDNN's batch normalization, by the API of version 2 or 3: in the layout of the case, and in its own blocked one.

#include <memory>
#include <unordered_map>

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
  switch (rank) {
    case 3:
      return memory::format_tag::nCw16c;
    case 4:
      return memory::format_tag::nChw16c;
    case 5:
      return memory::format_tag::nCdhw16c;
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
struct Problem {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  dnnl::primitive primitive;
  std::unordered_map<int, memory> arguments;
};

Run make(const Case& c, const Buffers& buffers, bool blocked) {
  const memory::data_type type = type_of(c.format);
  const memory::format_tag tag = blocked_tag(c.extents.size());
  if (c.sliced) return {};  // takes inputs and outputs of the same strides only
  if (type == memory::data_type::undef || (blocked && (tag == memory::format_tag::undef || c.in_place))) return {};
  auto problem = std::make_shared<Problem>();
  const memory::dims extents(c.extents.begin(), c.extents.end());
  const std::vector<Index> c_strides = c.strides();
  const memory::desc plain(extents, type, memory::dims(c_strides.begin(), c_strides.end()));
  const memory::desc data = blocked ? memory::desc(extents, type, tag) : plain;

  auto flags = c.affine ? normalization_flags::use_scale | normalization_flags::use_shift : normalization_flags::none;
  if (c.pass == Pass::inference) flags |= normalization_flags::use_global_stats;
  try {
    const auto forward = forward_desc(
        problem->engine, c.pass == Pass::inference ? prop_kind::forward_inference : prop_kind::forward_training, data,
        flags);
    const auto tensor = [&](std::byte* bytes) {
      if (!blocked) return memory(data, problem->engine, bytes);
      memory from(plain, problem->engine, bytes);
      memory to(data, problem->engine);
      dnnl::reorder(from, to).execute(problem->stream, from, to);
      problem->stream.wait();
      return to;
    };
    const auto per_channel = [&](const std::vector<float>& values, float otherwise) {
      memory m(memory::desc({c.channels()}, memory::data_type::f32, memory::format_tag::x), problem->engine);
      auto* to = static_cast<float*>(m.get_data_handle());
      for (std::size_t k = 0; k < static_cast<std::size_t>(c.channels()); ++k) {
        to[k] = values.empty() ? otherwise : values[k];
      }
      return m;
    };
    auto& arguments = problem->arguments;
    arguments.emplace(DNNL_ARG_SRC, tensor(buffers.x));
    arguments.emplace(DNNL_ARG_DST, tensor(buffers.y));
    arguments.emplace(DNNL_ARG_MEAN, per_channel({}, 0));
    arguments.emplace(DNNL_ARG_VARIANCE, per_channel({}, 1));
    if (c.affine) {
      arguments.emplace(DNNL_ARG_SCALE, per_channel(buffers.weight, 1));
      arguments.emplace(DNNL_ARG_SHIFT, per_channel(buffers.bias, 0));
    }
    problem->primitive = batch_normalization_forward(forward);
    if (c.pass == Pass::backward) {
      problem->primitive.execute(problem->stream, arguments);  // mean and variance
      problem->stream.wait();
      arguments.emplace(DNNL_ARG_DIFF_DST, tensor(buffers.dy));
      arguments.emplace(DNNL_ARG_DIFF_SRC, arguments.at(DNNL_ARG_DST));
      if (c.affine) {
        arguments.emplace(DNNL_ARG_DIFF_SCALE, per_channel({}, 0));
        arguments.emplace(DNNL_ARG_DIFF_SHIFT, per_channel({}, 0));
      }
      arguments.erase(DNNL_ARG_DST);
      problem->primitive = batch_normalization_backward(backward_desc(problem->engine, data, flags, forward));
    }
  } catch (const dnnl::error&) {
    return {};  // not implemented there
  }
  return [problem, threads = c.threads] {
    omp_set_num_threads(threads);
    problem->primitive.execute(problem->stream, problem->arguments);
    problem->stream.wait();
  };
}

}  // namespace

std::vector<Contender> contenders_onednn() {
  return {{"onednn", [](const Case& c, const Buffers& b) { return make(c, b, false); }},
          {"onednn.blocked", [](const Case& c, const Buffers& b) {
             return c.layout == Layout::channels_first ? make(c, b, true) : Run();
           }}};
}

}  // namespace bench
