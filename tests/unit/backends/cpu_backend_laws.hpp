#pragma once

#include "unit/backends/cpu_backend_cases.hpp"

// The laws of the processor's kernels, for each combination of formats in `Cases`, which the including file defines.

namespace cpu_backend_test {

TEMPLATE_LIST_TEST_CASE("a training step equals the oracle within its bounds", "[cpu_backend]", Cases) {
  using T = typename TestType::Element;
  using P = typename TestType::Parameter;
  auto shapes = small_shapes();
  for (const auto& large : large_shapes()) shapes.push_back(large);
  for (const auto& extents : shapes) {
    CAPTURE(extents);
    const auto problem = some_problem<T, P>(extents);
    const Placement& contiguous = syncbn_test::placements().front();
    check_against(Exact<T, P>(problem), problem, train_at(problem, contiguous, contiguous));
  }
}

TEMPLATE_LIST_TEST_CASE("the layout of inputs and outputs changes no bit", "[cpu_backend]", Cases) {
  using T = typename TestType::Element;
  using P = typename TestType::Parameter;
  auto shapes = small_shapes();
  for (const auto& large : large_shapes()) shapes.push_back(large);
  for (const auto& extents : shapes) {
    CAPTURE(extents);
    const auto problem = some_problem<T, P>(extents);
    const auto all = placements_of(extents);
    const auto first = train_at(problem, all.front(), all.front());
    for (const Placement& in : all) {
      // Each placement for both; and inputs here, outputs there.
      const Placement& other = all[(static_cast<std::size_t>(&in - all.data()) * 5 + 3) % all.size()];
      for (const Placement* out : {&in, &other}) {
        CAPTURE(in.name, out->name);
        const auto step = train_at(problem, in, *out);
        CHECK(same_bits_in_all(first, step));
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("x, dy, y and dx may each lie as they like", "[cpu_backend]", Cases) {
  using T = typename TestType::Element;
  using P = typename TestType::Parameter;
  const auto problem = some_problem<T, P>({4, 9, 5, 3});
  const auto& all = syncbn_test::placements();
  const auto first = train_at(problem, all.front(), all.front());
  for (std::size_t i = 0; i < all.size(); ++i) {
    Placed<T> x(problem.extents, all[i], problem.x);
    Placed<T> dy(problem.extents, all[(i + 1) % all.size()], problem.dy);
    Placed<T> y(problem.extents, all[(i + 2) % all.size()]);
    Placed<T> dx(problem.extents, all[(i + 7) % all.size()]);
    syncbn::CpuBackend<P> backend;
    auto step = train(backend, problem, x.read_only(), dy.read_only(), y.view(), dx.view());
    step.y = y.values();
    step.dx = dx.values();
    CAPTURE(all[i].name);
    CHECK(same_bits_in_all(first, step));
    CHECK((y.canaries_live() && dx.canaries_live()));
  }
}

TEMPLATE_LIST_TEST_CASE("the alignment of the data changes no bit", "[cpu_backend]", Cases) {
  using T = typename TestType::Element;
  using P = typename TestType::Parameter;
  for (const auto& extents : {std::vector<Index>{3, 5, 37}, std::vector<Index>{3, 19, 7}}) {
    for (const auto order : {syncbn_test::Order::contiguous, syncbn_test::Order::channels_last}) {
      const auto problem = some_problem<T, P>(extents);
      const Placement aligned{"aligned", order};
      const auto first = train_at(problem, aligned, aligned);
      for (Index offset = 1; offset <= 17; ++offset) {
        CAPTURE(extents, offset);
        const Placement shifted{"shifted", order, 1, 0, 0, offset};
        CHECK(same_bits_in_all(first, train_at(problem, shifted, aligned)));
        CHECK(same_bits_in_all(first, train_at(problem, aligned, shifted)));
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("the number of threads changes no bit", "[cpu_backend]", Cases) {
  using T = typename TestType::Element;
  using P = typename TestType::Parameter;
  using Loop = syncbn::ParallelFor<syncbn_test::ParallelLoop>;
  using Backend = syncbn::CpuBackend<P, Loop>;
  for (const auto& extents :
       {std::vector<Index>{3, 9, 2500}, std::vector<Index>{70, 30}, std::vector<Index>{2, 3, 40000}}) {
    const auto problem = some_problem<T, P>(extents);
    for (const std::size_t placement : {0U, 1U, 6U}) {
      const Placement& where = syncbn_test::placements()[placement];
      const auto serial = train_at(problem, where, where);
      for (const int threads : {1, 2, 3}) {
        CAPTURE(extents, where.name, threads);
        const auto parallel = train_at(problem, where, where, Backend(Loop(syncbn_test::ParallelLoop{threads})));
        CHECK(same_bits_in_all(serial, parallel));
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("outputs may be written over inputs", "[cpu_backend]", Cases) {
  using T = typename TestType::Element;
  using P = typename TestType::Parameter;
  for (const auto& extents :
       {std::vector<Index>{4, 9, 5, 3}, std::vector<Index>{3, 2, 3000}, std::vector<Index>{5, 300}}) {
    const auto problem = some_problem<T, P>(extents);
    for (const Placement& where : placements_of(extents)) {
      CAPTURE(extents, where.name);
      const auto apart = train_at(problem, where, where);
      syncbn::CpuBackend<P> backend;
      {
        Placed<T> x(extents, where, problem.x);
        Placed<T> dy(extents, where, problem.dy);
        auto step = train(backend, problem, x.read_only(), dy.read_only(), x.view(), dy.view());
        step.y = x.values();
        step.dx = dy.values();
        CHECK(same_bits_in_all(apart, step));
        CHECK((x.canaries_live() && dy.canaries_live()));
      }
      {
        Placed<T> x(extents, where, problem.x);
        Placed<T> dy(extents, where, problem.dy);
        Placed<T> y(extents, where, problem.x);
        train(backend, problem, x.read_only(), dy.read_only(), y.view(), x.view());  // dx over x
        CHECK(same_bits(apart.dx, x.values()));
        CHECK(x.canaries_live());
      }
    }
  }
}

TEMPLATE_LIST_TEST_CASE("an input may be broadcast by strides of 0", "[cpu_backend]", Cases) {
  using T = typename TestType::Element;
  using P = typename TestType::Parameter;
  // x and dy do not depend on one dimension; `spread` is the same tensor with all elements of its own.
  for (const std::size_t broadcast : {0U, 1U, 2U, 3U}) {
    const std::vector<Index> extents{3, 9, 4, 5};
    std::vector<Index> once = extents;
    once[broadcast] = 1;
    auto problem = some_problem<T, P>(once);
    Placed<T> x(once, syncbn_test::placements().front(), problem.x);
    Placed<T> dy(once, syncbn_test::placements().front(), problem.dy);
    const auto repeated = [&](TensorView<const T> v) {
      std::vector<Index> strides(v.strides().begin(), v.strides().end());
      strides[broadcast] = 0;
      return TensorView<const T>(v.data(), std::span<const Index>(extents), std::span<const Index>(strides));
    };
    Problem<T, P> spread = some_problem<T, P>(extents);
    const auto x_view = repeated(x.read_only());
    const auto dy_view = repeated(dy.read_only());
    std::size_t i = 0;
    for (Index n = 0; n < 3; ++n) {
      for (Index c = 0; c < 9; ++c) {
        for (Index h = 0; h < 4; ++h) {
          for (Index w = 0; w < 5; ++w, ++i) {
            spread.x[i] = x_view(n, c, h, w);
            spread.dy[i] = dy_view(n, c, h, w);
          }
        }
      }
    }
    for (const Placement& out : syncbn_test::placements()) {
      Placed<T> y(extents, out);
      Placed<T> dx(extents, out);
      syncbn::CpuBackend<P> backend;
      auto step = train(backend, spread, x_view, dy_view, y.view(), dx.view());
      step.y = y.values();
      step.dx = dx.values();
      CAPTURE(broadcast, out.name);
      CHECK(same_bits_in_all(train_at(spread, syncbn_test::placements().front(), out), step));
      CHECK((y.canaries_live() && dx.canaries_live()));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("tensors without elements change nothing", "[cpu_backend]", Cases) {
  using T = typename TestType::Element;
  using P = typename TestType::Parameter;
  for (const auto& extents : empty_shapes()) {
    CAPTURE(extents);
    const auto problem = some_problem<T, P>(extents);
    const auto count_of_x =
        static_cast<double>(problem.shape().elements_per_channel());  // 12 where there is no channel
    for (const Placement& where : syncbn_test::placements()) {
      const auto step = train_at(problem, where, where);
      CHECK(step.count == count_of_x);
      CHECK(step.mean == std::vector<double>(problem.channels()));
      CHECK(step.m2 == std::vector<double>(problem.channels()));
      CHECK(step.sum_dy == std::vector<double>(problem.channels()));
      CHECK(step.sum_dy_centred == std::vector<double>(problem.channels()));
      CHECK(step.bias_grad == std::vector<P>(problem.channels()));
    }
    // Nor do they where something was accumulated before; a null pointer is as good as any.
    syncbn::CpuBackend<P> backend;
    double count = 3;
    std::vector<double> mean(problem.channels(), 2);
    std::vector<double> m2(problem.channels(), 5);
    const TensorView<const T> nothing(nullptr, std::span<const Index>(extents));
    backend.accumulate(nothing, syncbn::MomentsPointers{&count, mean.data(), m2.data()});
    CHECK(count == 3 + count_of_x);
    CHECK(mean == std::vector<double>(problem.channels(), 2));
    CHECK(m2 == std::vector<double>(problem.channels(), 5));
    if (count_of_x > 0) continue;  // no channels
    // Passes over some channels find nothing either.
    const syncbn::ChannelRange all{0, static_cast<Index>(problem.channels())};
    std::vector<double> sum_dy = mean, sum_dy_centred = m2;
    const TensorView<T> none(nullptr, std::span<const Index>(extents));
    backend.accumulate(nothing, all, syncbn::MomentsPointers{&count, mean.data(), m2.data()});
    backend.accumulate(nothing, nothing, mean.data(), all,
                       syncbn::GradientSumsPointers{sum_dy.data(), sum_dy_centred.data()});
    backend.normalize(nothing, all, [](Index) { return syncbn::NormalizeCoefficients<P>{0, 1, 0}; }, none);
    backend.propagate(
        nothing, nothing, all, [](Index) { return syncbn::PropagateCoefficients<P>{0, 0, 0, 1, 0}; }, none);
    CHECK(mean == std::vector<double>(problem.channels()));
    CHECK(m2 == mean);
    CHECK(sum_dy == mean);
    CHECK(sum_dy_centred == mean);
  }
}

TEMPLATE_LIST_TEST_CASE("micro-batches accumulate to the whole", "[cpu_backend]", Cases) {
  using T = typename TestType::Element;
  using P = typename TestType::Parameter;
  const auto problem = some_problem<T, P>({7, 9, 700});
  const Exact<T, P> exact(problem);
  for (const std::size_t placement : {0U, 1U, 6U}) {
    Placed<T> x(problem.extents, syncbn_test::placements()[placement], problem.x);
    Placed<T> dy(problem.extents, syncbn_test::placements()[placement], problem.dy);
    using Backend = syncbn::CpuBackend<P>;
    Backend backend;
    syncbn::Moments<Backend> moments(9);
    const Index cuts[] = {0, 2, 2, 3, 7};
    for (std::size_t i = 0; i + 1 < std::size(cuts); ++i) {
      accumulate(backend, x.read_only().slice(0, cuts[i], cuts[i + 1]), moments);
    }
    syncbn::Statistics<Backend> statistics;
    finalize(backend, moments, problem.eps, statistics);
    syncbn::GradientSums<Backend> sums(9);
    for (std::size_t i = 0; i + 1 < std::size(cuts); ++i) {
      accumulate(backend, dy.read_only().slice(0, cuts[i], cuts[i + 1]), x.read_only().slice(0, cuts[i], cuts[i + 1]),
                 statistics, sums);
    }
    CHECK(*moments.count() == 4900);
    Within mean("mean"), m2("M2"), sum("sum dy"), centred("sum dy (x - mean)");
    for (std::size_t c = 0; c < 9; ++c) {
      // The bounds of the whole, with as many merges and additions more as there are cuts.
      const bounds::PassFacts& pass = exact.passes[c];
      const bounds::GradientFacts& gradient = exact.gradient[c];
      const Number more = 4;
      const Number mean_error =
          pass.mean_error + more * (bounds::gamma(4) * 2 * pass.channel.deviation +
                                    bounds::u * (std::abs(pass.channel.mean) + pass.channel.deviation));
      mean.compare(moments.mean()[c], exact.moments.mean[c], mean_error, c);
      m2.compare(moments.m2()[c], exact.moments.sum_of_squares[c],
                 pass.m2_error + bounds::gamma(7 * more) * pass.channel.m2 +
                     4 * mean_error * std::sqrt(3 * pass.channel.count * pass.channel.m2) +
                     12 * mean_error * mean_error * pass.channel.count,
                 c);
      sum.compare(sums.dy()[c], gradient.dy,
                  bounds::gradient_sum(pass.channel.count, gradient) + bounds::gamma(more) * gradient.dy_size, c);
      bounds::PassFacts moved = pass;
      moved.mean_error = mean_error;
      centred.compare(sums.dy_centred()[c], gradient.dy_centred,
                      bounds::centred_gradient_sum(moved, gradient) + bounds::gamma(more) * gradient.dy_centred_size,
                      c);
    }
    for (const Within* result : {&mean, &m2, &sum, &centred}) result->report();
  }
}

TEMPLATE_LIST_TEST_CASE("running statistics normalize, and their gradient is a scale", "[cpu_backend]", Cases) {
  using T = typename TestType::Element;
  using P = typename TestType::Parameter;
  using Backend = syncbn::CpuBackend<P>;
  const auto problem = some_problem<T, P>({4, 17, 6});
  const oracle::Shape shape = problem.shape();
  std::vector<P> running_mean, running_var;
  for (std::size_t c = 0; c < 17; ++c) {
    running_mean.push_back(static_cast<P>(0.1 * static_cast<double>(c)));
    running_var.push_back(static_cast<P>(0.5 + 0.25 * static_cast<double>(c)));
  }
  const Numbers x = numbers(problem.x);
  const Numbers dy = numbers(problem.dy);
  const Numbers want_y = oracle::inference(x, shape, numbers(running_mean), numbers(running_var),
                                           numbers(problem.weight), numbers(problem.bias), problem.eps);
  const oracle::Gradients want = oracle::backward_running(x, dy, shape, numbers(running_mean), numbers(running_var),
                                                          numbers(problem.weight), problem.eps);
  const bounds::Formats f = formats<T, P>();
  std::vector<T> first_y, first_dx;
  for (const Placement& where : syncbn_test::placements()) {
    Placed<T> x_placed(problem.extents, where, problem.x);
    Placed<T> dy_placed(problem.extents, where, problem.dy);
    Placed<T> y(problem.extents, where);
    Backend backend;
    syncbn::Statistics<Backend> statistics;
    syncbn::use_running(backend, whole(std::as_const(running_mean)), whole(std::as_const(running_var)), problem.eps,
                        statistics);
    normalize(backend, x_placed.read_only(), statistics, whole(problem.weight), whole(problem.bias), y.view());
    propagate(backend, dy_placed.read_only(), statistics, whole(problem.weight), dy_placed.view());
    Within y_within("y"), dx_within("dx");
    const auto y_values = y.values();
    const auto dx_values = dy_placed.values();
    oracle::detail::for_each_element(shape, [&](std::size_t i, std::size_t c) {
      bounds::PassFacts pass;
      pass.channel = {1, static_cast<Number>(running_mean[c]), static_cast<Number>(running_var[c]), 0};
      pass.eps = problem.eps;
      pass.weight = static_cast<Number>(problem.weight[c]);
      pass.bias = static_cast<Number>(problem.bias[c]);
      y_within.compare(syncbn_test::value_of(y_values[i]), want_y[i], bounds::normalized(pass, f, x[i], want_y[i]), i);
      pass.channel.mean = pass.bias = 0;  // dx = (dy - 0) * scale + 0
      dx_within.compare(syncbn_test::value_of(dx_values[i]), want.x[i], bounds::normalized(pass, f, dy[i], want.x[i]),
                        i);
    });
    CAPTURE(where.name);
    y_within.report();
    dx_within.report();
    if (first_y.empty()) {
      first_y = y_values;
      first_dx = dx_values;
    }
    CHECK(same_bits(first_y, y_values));
    CHECK(same_bits(first_dx, dx_values));
    CHECK((y.canaries_live() && dy_placed.canaries_live()));
  }
}

}  // namespace cpu_backend_test
