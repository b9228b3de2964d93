// A device for tests: PyTorch's PrivateUse1 backend, with tensors in host memory.
//
// There are no operators here. Each call on the device is passed to the CPU's kernel: it gets the device tensors as CPU
// tensors over the same bytes, and what it returns or changes becomes a device tensor in the same way.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <pthread.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

// only these two are needed; ATen/autocast_mode.h would double the time to compile
namespace at::autocast {
TORCH_API Tensor cached_cast(ScalarType, const Tensor&, DeviceType);
TORCH_API ScalarType get_autocast_dtype(DeviceType);
} // namespace at::autocast

namespace {

using at::Tensor;
using c10::DeviceIndex;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;
using c10::OperatorHandle;
using c10::Storage;
using torch::jit::Stack;

constexpr auto NPU = c10::DeviceType::PrivateUse1;

// ---- devices ---------------------------------------------------------------------------------------------------------

DeviceIndex device_count() {
  static const int count = [] {
    const char* wanted = std::getenv("STANDIN_NPU_COUNT");
    return wanted && *wanted ? std::atoi(wanted) : 2;
  }();
  return static_cast<DeviceIndex>(count);
}

thread_local DeviceIndex current_index = 0;
bool used = false, forked = false; // the real device cannot be used in a child forked after its first use

// `index`, or that of the current device if it is negative
DeviceIndex existing(DeviceIndex index) {
  index = index < 0 ? current_index : index;
  TORCH_CHECK(index < device_count(), "Invalid device ID: ", int(index), " of ", int(device_count()), " NPU devices");
  return index;
}

// the same, and marks the device as used
DeviceIndex checked(DeviceIndex index) {
  TORCH_CHECK(!forked, "Cannot re-initialize NPU in forked subprocess; start it with 'spawn'");
  index = existing(index);
  used = true;
  return index;
}

c10::Device device_at(DeviceIndex index) {
  return {NPU, index < 0 ? current_index : index};
}

DeviceIndex exchange(DeviceIndex index) {
  return std::exchange(current_index, checked(index));
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return NPU; }
  c10::Device exchangeDevice(c10::Device device) const override { return device_at(exchange(device.index())); }
  c10::Device getDevice() const override { return device_at(-1); }
  void setDevice(c10::Device device) const override { exchange(device.index()); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    current_index = device.index() < 0 ? current_index : device.index();
  }
  DeviceIndex deviceCount() const noexcept override { return device_count(); }
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device_at(device.index()));
  }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  void synchronizeDevice(const DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

// ---- memory ----------------------------------------------------------------------------------------------------------

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    checked(-1);
    auto memory = c10::GetCPUAllocator()->allocate(bytes);
    memory.unsafe_set_device(device_at(-1));
    return memory;
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
} device_allocator;
REGISTER_ALLOCATOR(NPU, &device_allocator)

// Page-locked memory is plain memory whose addresses are remembered.
struct PinnedAllocator final : c10::Allocator {
  static inline std::mutex mutex;
  static inline std::map<const char*, size_t> blocks; // start → size

  static void release(void* start) {
    std::lock_guard lock(mutex);
    blocks.erase(static_cast<char*>(start));
    std::free(start);
  }
  c10::DataPtr allocate(size_t bytes) override {
    std::lock_guard lock(mutex);
    void* start = std::aligned_alloc(64, (bytes / 64 + 1) * 64);
    TORCH_CHECK(start, "out of memory");
    blocks[static_cast<char*>(start)] = bytes + 1;
    return {start, start, &release, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
  bool owns(const char* address) const {
    std::lock_guard lock(mutex);
    auto after = blocks.upper_bound(address);
    return after != blocks.begin() && address < std::prev(after)->first + std::prev(after)->second;
  }
} pinned_allocator;

// ---- random numbers --------------------------------------------------------------------------------------------------

// A generator of the device around a CPU generator `inner`, which the CPU's kernels get: they refuse other devices'.
struct DeviceGenerator final : c10::GeneratorImpl {
  at::Generator inner = at::make_generator<at::CPUGeneratorImpl>();

  explicit DeviceGenerator(DeviceIndex index)
      : GeneratorImpl(device_at(index), DispatchKeySet(DispatchKey::PrivateUse1)) {}
  void set_current_seed(uint64_t seed) override { inner.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { inner.set_offset(offset); }
  uint64_t get_offset() const override { return inner.get_offset(); }
  uint64_t current_seed() const override { return inner.current_seed(); }
  uint64_t seed() override { return inner.seed(); }
  void set_state(const c10::TensorImpl& state) override { inner.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return inner.unsafeGetGeneratorImpl()->get_state();
  }
  DeviceGenerator* clone_impl() const override {
    auto copy = new DeviceGenerator(device().index());
    copy->inner = inner.clone();
    return copy;
  }
};

const at::Generator& default_generator(DeviceIndex index) {
  static const auto generators = [] {
    std::vector<at::Generator> all;
    for (DeviceIndex i = 0; i < device_count(); i++)
      all.push_back(at::make_generator<DeviceGenerator>(i));
    return all;
  }();
  return generators.at(index < 0 ? current_index : index);
}

// ---- hooks that PyTorch calls ----------------------------------------------------------------------------------------

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return device_count() > 0; }
  bool hasPrimaryContext(DeviceIndex) const override { return used && !forked; }
  DeviceIndex deviceCount() const override { return device_count(); }
  void setCurrentDevice(DeviceIndex index) const override { exchange(index); }
  DeviceIndex getCurrentDevice() const override { return current_index; }
  DeviceIndex exchangeDevice(DeviceIndex index) const override { return exchange(index); }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override { return exchange(index); }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const override { return default_generator(index); }
  at::Generator getNewGenerator(DeviceIndex index) const override {
    return at::make_generator<DeviceGenerator>(index);
  }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  bool isPinnedPtr(const void* address) const override {
    return pinned_allocator.owns(static_cast<const char*>(address));
  }
  void resizePrivateUse1Bytes(const Storage& storage, size_t bytes) const override {
    c10::DeviceGuard guard(storage.device());
    auto memory = device_allocator.allocate(bytes);
    if (const auto kept = std::min(bytes, storage.nbytes()))
      std::memcpy(memory.get(), storage.data(), kept);
    storage.set_data_ptr_noswap(std::move(memory));
    storage.set_nbytes(bytes);
  }
};

// ---- one call of an operator -----------------------------------------------------------------------------------------

// On a CPU without half arithmetic, half-precision kernels of these are about 50 times slower than float ones.
bool is_product(const std::string& name) {
  static const char* const names[] = {"aten::convolution", "aten::convolution_backward", "aten::mm", "aten::bmm",
                                      "aten::addmm", "aten::baddbmm"};
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

// Returns a storage on `device` over the bytes of `storage`, which it keeps alive.
c10::DataPtr lend_bytes(const Storage& storage, c10::Device device) {
  auto drop = [](void* kept) { delete static_cast<Storage*>(kept); };
  return {storage.mutable_data(), new Storage(storage), drop, device};
}

Storage lend_storage(const Storage& storage, c10::Device device, c10::Allocator* allocator) {
  return Storage(Storage::use_byte_size_t(), storage.nbytes(), lend_bytes(storage, device), allocator, true);
}

Tensor lend_tensor(const Tensor& tensor, Storage storage, DispatchKey key) {
  auto lent = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), DispatchKeySet(key), tensor.dtype());
  auto impl = lent.unsafeGetTensorImpl();
  impl->set_storage_offset(tensor.storage_offset());
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides());
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number())
    impl->set_wrapped_number(true);
  return lent;
}

class Call {
 public:
  explicit Call(std::string name = "", bool widen = false)
      : name_(std::move(name)), widen_(widen), host_indices_(name_.find("index") != std::string::npos) {}

  DeviceIndex device() const {
    return device_;
  }

  void set_device(DeviceIndex index) {
    device_ = checked(index);
  }

  Storage to_host(const Storage& storage) {
    for (const auto& [device, host] : storages_)
      if (device.is_alias_of(storage))
        return host;
    storages_.emplace_back(storage, lend_storage(storage, c10::kCPU, c10::GetCPUAllocator()));
    return storages_.back().second;
  }

  Tensor to_host(const Tensor& tensor) {
    if (!tensor.defined())
      return tensor;
    // only CPU scalars and CPU indices may be mixed with device tensors
    if (tensor.is_cpu() && (tensor.dim() == 0 || host_indices_))
      return tensor;
    TORCH_CHECK(
        tensor.is_privateuseone() && (device_ < 0 || device_ == tensor.device().index()),
        "Expected all tensors to be on the same device, but found at least two devices, ", device_at(device_), " and ",
        tensor.device(), "! (in ", name_, ")");
    set_device(tensor.device().index());
    Tensor host = lend_tensor(tensor, to_host(tensor.storage()), DispatchKey::CPU);
    if (widen_ && at::isReducedFloatingType(tensor.scalar_type())) {
      narrow_ = tensor.scalar_type();
      return host.to(at::kFloat);
    }
    tensors_.emplace_back(tensor, host);
    return host;
  }

  Storage to_device(const Storage& storage) {
    for (const auto& [device, host] : storages_)
      if (host.is_alias_of(storage))
        return device;
    storages_.emplace_back(lend_storage(storage, device_at(device_), &device_allocator), storage);
    return storages_.back().first;
  }

  Tensor to_device(Tensor host) {
    if (!host.defined())
      return host;
    for (const auto& [device, lent] : tensors_)
      if (lent.is_same(host))
        return device; // an operator that returns its argument, such as add_
    if (narrow_)
      host = host.to(*narrow_);
    return lend_tensor(host, to_device(host.storage()), DispatchKey::PrivateUse1);
  }

  // An operator may have resized an argument, changed its strides or set it to another storage.
  void take_back() {
    for (const auto& [device, host] : tensors_) {
      auto impl = device.unsafeGetTensorImpl();
      const Storage mine = device.storage(), theirs = host.storage();
      if (!to_device(theirs).is_alias_of(mine))
        impl->set_storage_keep_dtype(to_device(theirs));
      else if (theirs.data() != mine.data()) {
        mine.set_data_ptr_noswap(lend_bytes(theirs, device.device()));
        mine.set_nbytes(theirs.nbytes());
      }
      if (device.sizes() != host.sizes() || device.strides() != host.strides() ||
          device.storage_offset() != host.storage_offset()) {
        impl->set_storage_offset(host.storage_offset());
        impl->set_sizes_and_strides(host.sizes(), host.strides());
      }
    }
  }

 private:
  std::string name_;
  bool widen_, host_indices_;
  DeviceIndex device_ = -1;
  std::optional<at::ScalarType> narrow_;
  std::vector<std::pair<Storage, Storage>> storages_; // (the device's, the CPU's)
  std::vector<std::pair<Tensor, Tensor>> tensors_;
};

// returns `value` with `change` applied to the tensors in it
template <class Change>
IValue each_tensor(const IValue& value, Change change) {
  if (value.isTensor())
    return Tensor(change(value.toTensor()));
  if (value.isTensorList()) {
    c10::List<Tensor> changed;
    for (const Tensor& tensor : value.toTensorList())
      changed.push_back(change(tensor));
    return changed;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> changed;
    for (const std::optional<Tensor>& tensor : value.toOptionalTensorList())
      changed.push_back(tensor ? std::optional<Tensor>(change(*tensor)) : std::nullopt);
    return changed;
  }
  return value;
}

void run_on_cpu(const OperatorHandle& op, Stack* stack) {
  const auto& schema = op.schema();
  auto values = torch::jit::last(*stack, schema.arguments().size());
  const auto first = stack->size() - values.size();
  // an operator that writes to its arguments must get the arguments themselves
  Call call(schema.name(), is_product(schema.name()) && !schema.is_mutable());
  for (size_t i = first; i < stack->size(); i++) {
    IValue& value = (*stack)[i];
    if (value.isDevice() && value.toDevice().type() == NPU) {
      call.set_device(value.toDevice().index());
      value = c10::Device(c10::kCPU);
    } else if (value.isStorage() && value.toStorage().device_type() == NPU)
      value = call.to_host(value.toStorage());
    else
      value = each_tensor(value, [&](const Tensor& tensor) { return call.to_host(tensor); });
  }
  for (size_t i = 0; i < schema.arguments().size(); i++) {
    if (schema.arguments()[i].name() != "generator")
      continue;
    IValue& value = (*stack)[first + i];
    const auto generator = value.isNone() ? default_generator(call.device()) : value.toGenerator();
    TORCH_CHECK(generator.device().type() == NPU, "Expected a 'npu' device type for generator");
    value = static_cast<DeviceGenerator*>(generator.unsafeGetGeneratorImpl())->inner;
  }
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
  }
  call.take_back();
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); i++)
    (*stack)[i] = each_tensor((*stack)[i], [&](const Tensor& tensor) { return call.to_device(tensor); });
}

// Copies to page-locked memory that the host does not wait for: the target is NaN until the host waits for something.
struct Copies {
  std::mutex mutex;
  std::vector<std::pair<Tensor, Tensor>> on_their_way; // target, value
  int64_t waits = 0; // how often the host has waited for a device

  void send(const Tensor& target, const Tensor& value) {
    std::lock_guard lock(mutex);
    on_their_way.emplace_back(target, value.clone());
    if (target.is_floating_point())
      target.fill_(std::numeric_limits<double>::quiet_NaN());
  }
  void wait(bool counted) {
    std::lock_guard lock(mutex);
    waits += counted;
    for (auto& [target, value] : on_their_way)
      target.copy_(value);
    on_their_way.clear();
  }
};
Copies& copies() {
  static auto all = new Copies; // never freed, because PyTorch may be unloaded before
  return *all;
}

// copies between the host and a device, and between devices
Tensor copy_from(const Tensor& source, const Tensor& target, bool non_blocking) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  auto host = [](const Tensor& tensor) { return tensor.is_cpu() ? tensor : Call().to_host(tensor); };
  if (target.is_cpu() && non_blocking && target.is_pinned()) {
    copies().send(target, host(source).to(target.scalar_type()));
    return target;
  }
  if (target.is_cpu())
    copies().wait(true);
  host(target).copy_(host(source));
  return target;
}

at::Scalar item(const Tensor& tensor) {
  copies().wait(true);
  return Call().to_host(tensor).item();
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("_copy_from", copy_from);
  library.impl("_local_scalar_dense", item);
  // PyTorch would look for kernels of this device and find none
  for (auto name : {"convolution", "convolution_backward"})
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

// ---- autocast --------------------------------------------------------------------------------------------------------

template <bool to_half>
void run_cast(const OperatorHandle& op, Stack* stack) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(DispatchKey::AutocastPrivateUse1);
  const auto dtype = to_half ? at::autocast::get_autocast_dtype(NPU) : at::kFloat;
  for (size_t i = stack->size() - op.schema().arguments().size(); i < stack->size(); i++)
    (*stack)[i] = each_tensor((*stack)[i], [&](const Tensor& tensor) {
      return tensor.defined() ? at::autocast::cached_cast(dtype, tensor, NPU) : tensor;
    });
  op.callBoxed(stack);
}

void refuse(const OperatorHandle& op, Stack*) {
  TORCH_CHECK(false, op.schema().name(), " is unsafe to autocast");
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, library) {
  for (auto name : {"conv2d", "conv_transpose2d.input", "linear", "matmul", "mm", "bmm", "addmm", "baddbmm"})
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_cast<true>>());
  for (auto name : {"exp", "log", "log1p", "pow.Tensor_Scalar", "softmax.int", "log_softmax.int", "sum",
                    "sum.dim_IntList", "cumsum", "prod", "mse_loss", "l1_loss", "smooth_l1_loss", "nll_loss_nd",
                    "binary_cross_entropy_with_logits"})
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_cast<false>>());
  library.impl("binary_cross_entropy", torch::CppFunction::makeFromBoxedFunction<&refuse>());
}

// ---- what the Python modules call -----------------------------------------------------------------------------------

TORCH_LIBRARY(standin_npu, library) {
  library.def("device_count() -> int", [] { return int64_t(device_count()); });
  library.def("is_initialized() -> bool", [] { return used && !forked; });
  library.def("is_in_bad_fork() -> bool", [] { return forked; });
  library.def("wait(bool counted) -> ()", [](bool counted) { copies().wait(counted); });
  library.def("waits() -> int", [] { return copies().waits; });
  library.def("default_generator(int index) -> Generator?", [](int64_t index) {
    return std::optional<at::Generator>(default_generator(existing(static_cast<DeviceIndex>(index))));
  });
}

[[maybe_unused]] const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  pthread_atfork(nullptr, nullptr, [] { forked = used; });
  return true;
}();

} // namespace
