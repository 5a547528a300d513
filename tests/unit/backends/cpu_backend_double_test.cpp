#include <syncbn/backends/cpu_backend.hpp>

#include "unit/backends/cpu_backend_cases.hpp"

namespace cpu_backend_test {

using Cases = std::tuple<Case<syncbn::Float16, double>, Case<syncbn::BFloat16, double>, Case<float, double>,
                         Case<double, double>>;

}  // namespace cpu_backend_test

#include "unit/backends/cpu_backend_laws.hpp"
