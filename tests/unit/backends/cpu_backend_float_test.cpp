#include <syncbn/backends/cpu_backend.hpp>

#include "unit/backends/cpu_backend_cases.hpp"

namespace cpu_backend_test {

using Cases = std::tuple<Case<syncbn::Float16, float>, Case<syncbn::BFloat16, float>, Case<float, float>>;

}  // namespace cpu_backend_test

#include "unit/backends/cpu_backend_laws.hpp"
