#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include <dlpack/dlpack.h>

#include <syncbn/backends/cuda_space.hpp>
#include <syncbn/scalar_kind.hpp>

/// @file
/// DLPack, the form in which NumPy, CuPy, JAX, PyTorch, TVM and others hand out tensors without copying them: in by
/// dlpack_view(), visit_dlpack() and DlpackTensor, out by to_dlpack(). A DLTensor knows its format and device at run
/// time, and a view at compile time; the two are compared. Streams are not: order them before, as the protocol says.
///
/// Works with DLPack 0.6 and later; the versioned structures are taken and given where the header has them (1.0).

namespace syncbn::inline v0 {

/// @brief Which of DLPack's devices a memory space stands for; specialise it for your own. Has `type`, and `accepts`.
/// @tparam Space  the memory space.
template <class Space>
struct dlpack_device;
/// @brief The host, with memory that CUDA has pinned.
template <>
struct dlpack_device<HostSpace> {
  static constexpr DLDeviceType type = kDLCPU;  ///< when exported
  /// @brief Whether the space can read it. @param t  a device type. @return true if so.
  static constexpr bool accepts(DLDeviceType t) noexcept { return t == kDLCPU || t == kDLCUDAHost; }
};
/// @brief CUDA devices, with managed memory.
template <>
struct dlpack_device<CudaSpace> {
  static constexpr DLDeviceType type = kDLCUDA;  ///< when exported
  /// @brief Whether the space can read it. @param t  a device type. @return true if so.
  static constexpr bool accepts(DLDeviceType t) noexcept { return t == kDLCUDA || t == kDLCUDAManaged; }
};

namespace detail {

constexpr DLDataType dlpack_type(ScalarKind kind) noexcept {
  return {static_cast<std::uint8_t>(kind == ScalarKind::bf16 ? kDLBfloat : kDLFloat),
          static_cast<std::uint8_t>(8 * size_of(kind)), 1};
}

inline std::optional<ScalarKind> kind_of(const DLDataType& type) noexcept {
  for (const ScalarKind kind : {ScalarKind::f16, ScalarKind::bf16, ScalarKind::f32, ScalarKind::f64}) {
    const DLDataType known = dlpack_type(kind);
    if (type.code == known.code && type.bits == known.bits && type.lanes == known.lanes) return kind;
  }
  return std::nullopt;
}

inline std::string name_of(const DLDataType& type) {
  if (const auto kind = kind_of(type)) return std::string(name(*kind));
  return "code " + std::to_string(type.code) + ", " + std::to_string(type.bits) + " bits, " +
         std::to_string(type.lanes) + " lanes";
}

}  // namespace detail

/// @brief The elements of a DLTensor. @tparam T  element type, of the tensor's format. @tparam Space  of its device.
/// @param t  outlives the view. @return the same elements.
/// @throws Error       if the format or the device is another, or the address is not a multiple of the element's size.
/// @throws ShapeError  if it has more than 8 dimensions, or an extent is negative.
template <class T, class Space = HostSpace>
TensorView<T, Space> dlpack_view(const DLTensor& t) {
  constexpr ScalarKind kind = scalar_kind<std::remove_const_t<T>>::value;
  if (detail::kind_of(t.dtype) != kind) {
    throw Error("expected a DLPack tensor of " + std::string(name(kind)) + " but got " + detail::name_of(t.dtype));
  }
  if (!dlpack_device<Space>::accepts(t.device.device_type)) {
    throw Error("a DLPack tensor on device type " + std::to_string(t.device.device_type) +
                " where one on device type " + std::to_string(dlpack_device<Space>::type) + " is expected");
  }
  if (t.ndim < 0) throw ShapeError("a DLPack tensor of " + std::to_string(t.ndim) + " dimensions");
  auto* const data = static_cast<std::byte*>(t.data) + (t.data == nullptr ? 0 : t.byte_offset);
  if (std::bit_cast<std::uintptr_t>(data) % sizeof(T) != 0) {
    throw Error("a DLPack tensor whose elements are not aligned to their size");
  }
  const std::span<const Index> extents(t.shape, static_cast<std::size_t>(t.ndim));
  if (data == nullptr && std::find(extents.begin(), extents.end(), Index{0}) == extents.end()) {
    throw Error("a DLPack tensor without memory");
  }
  auto* const elements = static_cast<T*>(static_cast<void*>(data));
  if (t.strides == nullptr) return TensorView<T, Space>(elements, extents);
  return TensorView<T, Space>(elements, extents, {t.strides, static_cast<std::size_t>(t.ndim)});
}

/// @brief Calls a function with the elements of a DLTensor, whatever their format is. @tparam Space  of its device.
/// @param t  outlives the call. @param f  takes a TensorView of Float16, BFloat16, float or double.
/// @return what @p f does. @throws as dlpack_view(). @throws Error if it is none of these formats.
template <class Space = HostSpace, class F>
decltype(auto) visit_dlpack(const DLTensor& t, F&& f) {
  const auto kind = detail::kind_of(t.dtype);
  if (!kind) throw Error("a DLPack tensor of another format than f16, bf16, f32 and f64: " + detail::name_of(t.dtype));
  switch (*kind) {
    case ScalarKind::f16:
      return std::forward<F>(f)(dlpack_view<Float16, Space>(t));
    case ScalarKind::bf16:
      return std::forward<F>(f)(dlpack_view<BFloat16, Space>(t));
    case ScalarKind::f32:
      return std::forward<F>(f)(dlpack_view<float, Space>(t));
    case ScalarKind::f64:
      break;
  }
  return std::forward<F>(f)(dlpack_view<double, Space>(t));
}

/// @brief A tensor that was given to us: keeps it alive, and gives it back with its last copy.
/// @tparam T  element type, const if it is only read. @tparam Space  of its device.
template <class T, class Space = HostSpace>
class DlpackTensor {
 public:
  /// @brief Takes a tensor over, also if it throws. @param taken  not null. @throws as dlpack_view().
  explicit DlpackTensor(DLManagedTensor* taken)
      : tensor_(share(taken)), view_(dlpack_view<T, Space>(taken->dl_tensor)) {}

#if defined(DLPACK_MAJOR_VERSION) && DLPACK_MAJOR_VERSION >= 1
  /// @brief The same from version 1 on. @param taken  not null. @throws as dlpack_view().
  /// @throws Error if it is of another major version, or must not be written and T is not const.
  explicit DlpackTensor(DLManagedTensorVersioned* taken) : tensor_(share(taken)) {
    if (taken->version.major != DLPACK_MAJOR_VERSION) {
      throw Error("a DLPack tensor of version " + std::to_string(taken->version.major) + "; known is version " +
                  std::to_string(DLPACK_MAJOR_VERSION));
    }
    if (!std::is_const_v<T> && (taken->flags & DLPACK_FLAG_BITMASK_READ_ONLY) != 0) {
      throw Error("a DLPack tensor that must not be written, where one that may be is expected");
    }
    view_ = dlpack_view<T, Space>(taken->dl_tensor);
  }
#endif

  /// @brief Its elements. @return a view, valid as long as this tensor or a copy of it.
  const TensorView<T, Space>& view() const noexcept { return view_; }

 private:
  template <class Managed>
  static std::shared_ptr<void> share(Managed* taken) {
    return {taken, [](Managed* t) {
              if (t->deleter != nullptr) t->deleter(t);
            }};
  }

  std::shared_ptr<void> tensor_;
  TensorView<T, Space> view_;
};

/// @brief A DlpackTensor as a tensor. @tparam T  element type. @tparam Space  memory space.
template <class T, class Space>
struct tensor_traits<DlpackTensor<T, Space>> {
  /// @brief Its elements. @param t  a tensor. @return its view.
  static const TensorView<T, Space>& view(const DlpackTensor<T, Space>& t) noexcept { return t.view(); }
};

namespace detail {

// What a consumer holds: it calls the deleter, which frees all of this.
template <class Managed, class Owner>
struct ExportedTensor {
  Owner owner;
  std::array<Index, static_cast<std::size_t>(max_rank)> extents{};
  std::array<Index, static_cast<std::size_t>(max_rank)> strides{};
  Managed managed{};

  template <class T, class Space>
  void fill(const TensorView<T, Space>& v, int device) {
    for (int d = 0; d < v.rank(); ++d) {
      extents[static_cast<std::size_t>(d)] = v.extent(d);
      strides[static_cast<std::size_t>(d)] = v.stride(d);
    }
    using Value = std::remove_const_t<T>;
    managed.dl_tensor = {.data = const_cast<Value*>(v.data()),  // version 1 says by a flag that it is const
                         .device = {dlpack_device<Space>::type, device},
                         .ndim = v.rank(),
                         .dtype = dlpack_type(scalar_kind<Value>::value),
                         .shape = extents.data(),
                         .strides = strides.data(),
                         .byte_offset = 0};
    managed.manager_ctx = this;
    managed.deleter = [](Managed* m) { delete static_cast<ExportedTensor*>(m->manager_ctx); };
  }
};

}  // namespace detail

/// @brief Hands a tensor to whoever speaks DLPack. @param tensor  is moved in and lives until the consumer is done: an
/// owner of its elements, or a view whose elements live long enough by other means. @param device  its number.
/// @return to be freed by its `deleter`, which DlpackTensor and Python's consumers call. @throws std::bad_alloc.
template <class Tensor>
[[nodiscard]] DLManagedTensor* to_dlpack(Tensor tensor, int device = 0) {
  using Exported = detail::ExportedTensor<DLManagedTensor, Tensor>;
  std::unique_ptr<Exported> exported(new Exported{std::move(tensor)});
  const auto v = view(exported->owner);
  static_assert(!std::is_const_v<typename decltype(v)::element_type>,
                "DLPack before version 1 cannot say that a tensor must not be written: see to_dlpack_versioned");
  exported->fill(v, device);
  return &exported.release()->managed;
}

#if defined(DLPACK_MAJOR_VERSION) && DLPACK_MAJOR_VERSION >= 1
/// @brief The same in the structures of version 1, for read-only tensors too. @param tensor  as above. @param device  its
/// number. @return as above. @throws std::bad_alloc.
template <class Tensor>
[[nodiscard]] DLManagedTensorVersioned* to_dlpack_versioned(Tensor tensor, int device = 0) {
  using Exported = detail::ExportedTensor<DLManagedTensorVersioned, Tensor>;
  std::unique_ptr<Exported> exported(new Exported{std::move(tensor)});
  const auto v = view(exported->owner);
  exported->fill(v, device);
  exported->managed.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  if (std::is_const_v<typename decltype(v)::element_type>) exported->managed.flags = DLPACK_FLAG_BITMASK_READ_ONLY;
  return &exported.release()->managed;
}
#endif

}  // namespace syncbn::inline v0
