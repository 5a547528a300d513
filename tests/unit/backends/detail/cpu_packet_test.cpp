#include <syncbn/backends/detail/cpu_packet.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/sixteen_bits.hpp"

namespace {

using syncbn::BFloat16;
using syncbn::Float16;
using syncbn::cpu::load_element;
using syncbn::cpu::store_element;
using syncbn_test::SixteenBits;

template <class Storage>
constexpr SixteenBits format_of = std::same_as<Storage, Float16> ? syncbn_test::binary16 : syncbn_test::bfloat16;

template <class Storage, class Compute>
std::uint16_t stored(Compute value) {
  Storage element{};
  store_element(&element, value);
  return element.bits;
}

template <class Compute, class Storage>
Compute loaded(std::uint16_t bits) {
  const Storage element{bits};
  return load_element<Compute>(&element);
}

template <class Storage, class Compute>
struct Conversion {
  using storage = Storage;
  using compute = Compute;
};

// The first wrong answer, if there is one, told once.
class Wrong {
 public:
  void expect(bool right, long double input, std::uint16_t got, std::uint16_t want) {
    ++tried_;
    if (right || wrong_++ > 0) return;
    input_ = input;
    got_ = got;
    want_ = want;
  }
  void report() const {
    CAPTURE(tried_, wrong_, static_cast<double>(input_), got_, want_);
    CHECK(wrong_ == 0);
    CHECK(tried_ > 0);
  }

 private:
  long tried_ = 0, wrong_ = 0;
  long double input_ = 0;
  std::uint16_t got_ = 0, want_ = 0;
};

}  // namespace

TEMPLATE_TEST_CASE("all 65536 patterns load as their value and are stored as themselves", "[cpu_packet]",
                   (Conversion<Float16, float>), (Conversion<Float16, double>), (Conversion<BFloat16, float>),
                   (Conversion<BFloat16, double>)) {
  using Storage = typename TestType::storage;
  using Compute = typename TestType::compute;
  const SixteenBits& format = format_of<Storage>;
  Wrong wrong;
  for (std::uint32_t pattern = 0; pattern < 65536; ++pattern) {
    const auto bits = static_cast<std::uint16_t>(pattern);
    const Compute value = loaded<Compute, Storage>(bits);
    const std::uint16_t back = stored<Storage>(value);
    if (format.is_nan(bits)) {
      wrong.expect(std::isnan(value) && format.is_nan(back), value, back, bits);
    } else {
      wrong.expect(value == format.value(bits) && back == bits, value, back, bits);
    }
  }
  wrong.report();
}

TEMPLATE_TEST_CASE("stores round once, to the nearest and halves to even", "[cpu_packet]", (Conversion<Float16, float>),
                   (Conversion<Float16, double>), (Conversion<BFloat16, float>), (Conversion<BFloat16, double>)) {
  using Storage = typename TestType::storage;
  using Compute = typename TestType::compute;
  const SixteenBits& format = format_of<Storage>;
  Wrong wrong;
  const auto try_value = [&](Compute value) {
    for (const Compute v : {value, -value}) {
      const std::uint16_t want = format.nearest(v);
      const std::uint16_t got = stored<Storage>(v);
      wrong.expect(got == want, v, got, want);
    }
  };
  const Compute up = std::numeric_limits<Compute>::infinity();
  for (std::uint16_t low = 0; low < format.infinity(); ++low) {
    // Between each value and the next: both, the half, and the nearest numbers about it. For double these are the cases
    // that rounding to float first would send to the wrong side.
    const long double here = format.finite_value(low);
    const long double next = format.finite_value(static_cast<std::uint16_t>(low + 1));
    const auto half_way = static_cast<Compute>((here + next) / 2);
    for (const Compute v :
         {static_cast<Compute>(here), half_way, std::nextafter(half_way, -up), std::nextafter(half_way, up),
          static_cast<Compute>(here + (next - here) / 3), static_cast<Compute>(next)}) {
      try_value(v);
    }
    // As near to the half as a float is, and a little beyond.
    const auto float_up =
        static_cast<Compute>(std::nextafter(static_cast<float>(half_way), std::numeric_limits<float>::infinity()));
    const auto float_down = static_cast<Compute>(std::nextafter(static_cast<float>(half_way), 0.0F));
    for (const Compute v : {float_up, float_down, half_way + (float_up - half_way) / 2,
                            half_way + (float_down - half_way) / 2, half_way + (float_up - half_way) / 4}) {
      try_value(v);
    }
  }
  wrong.report();
}

TEMPLATE_TEST_CASE("stores of what is too large, too small or not a number", "[cpu_packet]", Float16, BFloat16) {
  const SixteenBits& format = format_of<TestType>;
  const std::uint16_t infinite = format.infinity();
  const auto largest = static_cast<std::uint16_t>(infinite - 1);
  const std::uint16_t minus = 0x8000U;
  const double infinity = std::numeric_limits<double>::infinity();
  const auto limit = static_cast<double>((format.finite_value(largest) + format.finite_value(infinite)) / 2);

  CHECK(stored<TestType>(infinity) == infinite);
  CHECK(stored<TestType>(-infinity) == (infinite | minus));
  CHECK(stored<TestType>(std::numeric_limits<float>::infinity()) == infinite);
  CHECK(stored<TestType>(limit) == infinite);
  CHECK(stored<TestType>(std::nextafter(limit, 0.0)) == largest);
  CHECK(stored<TestType>(-std::nextafter(limit, 0.0)) == (largest | minus));
  CHECK(stored<TestType>(1e300) == infinite);
  CHECK(stored<TestType>(-1e300) == (infinite | minus));
  CHECK(stored<TestType>(std::numeric_limits<float>::max()) == infinite);

  const auto half_of_smallest = static_cast<double>(format.smallest() / 2);
  CHECK(stored<TestType>(half_of_smallest) == 0);
  CHECK(stored<TestType>(std::nextafter(half_of_smallest, 1.0)) == 1);
  CHECK(stored<TestType>(-half_of_smallest) == minus);
  CHECK(stored<TestType>(1e-300) == 0);
  CHECK(stored<TestType>(-1e-300) == minus);
  CHECK(stored<TestType>(std::numeric_limits<double>::denorm_min()) == 0);
  CHECK(stored<TestType>(-0.0) == minus);
  CHECK(format.is_nan(stored<TestType>(std::numeric_limits<double>::quiet_NaN())));
  CHECK(format.is_nan(stored<TestType>(-std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("a double is stored as the nearest float", "[cpu_packet]") {
  float element = 0;
  store_element(&element, 1 + 0x1p-24);  // half way: to even
  CHECK(element == 1.0F);
  store_element(&element, 1 + 0x1p-24 + 0x1p-50);
  CHECK(element == 1 + 0x1p-23F);
  store_element(&element, 0.1F);
  CHECK(element == 0.1F);
  CHECK(load_element<double>(&element) == static_cast<double>(0.1F));
}

TEST_CASE("elements are read and written as bytes", "[cpu_packet]") {
  // A buffer of bytes, as a memory-mapped file has them.
  alignas(2) unsigned char bytes[6] = {0x00, 0x3c, 0x00, 0x40, 0x00, 0x42};
  const auto* elements = static_cast<const Float16*>(static_cast<const void*>(bytes));
  CHECK(load_element<float>(elements) == 1);
  CHECK(load_element<double>(elements + 1) == 2);
  store_element(static_cast<Float16*>(static_cast<void*>(bytes)), 3.0F);
  CHECK(std::memcmp(bytes, bytes + 4, 2) == 0);
}

namespace {

// What a packet of P makes of elements, and elements of it, against one by one.
template <class Storage, class P>
void check_packets(const std::vector<P>& values) {
  constexpr auto width = static_cast<std::size_t>(syncbn::cpu::packet_size<P>);
  bool same = true;
  for (std::size_t i = 0; i + width <= values.size(); i += width) {
    Storage stored_together[width];
    Storage one_by_one[width];
    P loaded_together[width];
    syncbn::cpu::store_packet<P>(stored_together, syncbn::cpu::load_packet<P>(values.data() + i));
    for (std::size_t k = 0; k < width; ++k) store_element(one_by_one + k, values[i + k]);
    same = same && std::memcmp(stored_together, one_by_one, sizeof one_by_one) == 0;
    syncbn::cpu::store_packet<P>(loaded_together, syncbn::cpu::load_packet<P>(one_by_one));
    for (std::size_t k = 0; k < width; ++k) {
      const P one = load_element<P>(one_by_one + k);
      same = same && std::memcmp(loaded_together + k, &one, sizeof one) == 0;
    }
    if (!same) {
      CAPTURE(i, std::vector<P>(values.begin() + static_cast<std::ptrdiff_t>(i),
                                values.begin() + static_cast<std::ptrdiff_t>(i + width)));
      FAIL("a packet differs from its elements");
    }
  }
  SUCCEED();
}

}  // namespace

TEMPLATE_TEST_CASE("packets hold what elements one by one do", "[cpu_packet]", (Conversion<Float16, float>),
                   (Conversion<Float16, double>), (Conversion<BFloat16, float>), (Conversion<BFloat16, double>),
                   (Conversion<float, float>), (Conversion<float, double>), (Conversion<double, double>)) {
  using Storage = typename TestType::storage;
  using P = typename TestType::compute;
  std::vector<P> values;
  // All sixteen upper bits of a float, each with lower ones about the half and the ends; NaN of all kinds among them.
  for (std::uint32_t upper = 0; upper < 65536; ++upper) {
    for (const std::uint32_t lower : {0U, 1U, 0x1000U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
      const std::uint32_t bits = upper << 16U | lower;
      float value;
      std::memcpy(&value, &bits, sizeof value);
      // Signalling ones become quiet where they are converted at all, which a copy is not.
      if (std::isnan(value) && !std::is_same_v<Storage, BFloat16>) continue;
      values.push_back(static_cast<P>(value));
    }
  }
  while (values.size() % 16 != 0) values.push_back(0);
  check_packets<Storage>(values);
}
