// Objects behind the operators' interface: a tensor of one byte stands for the object in Python and owns it.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <memory>
#include <mutex>
#include <unordered_map>

namespace esper {

// The objects of one type. Only tensors made here stand for one: any other is told apart, whatever its bytes are.
template <class Object>
class Opaque {
 public:
  static torch::stable::Tensor give(std::shared_ptr<const Object> object) {
    static const int64_t kOne = 1;
    auto byte = std::make_unique<uint8_t>(0);
    torch::stable::Tensor tensor = torch::stable::from_blob(
        byte.get(), {&kOne, 1}, {&kOne, 1}, torch::stable::Device(torch::headeronly::DeviceType::CPU),
        torch::headeronly::ScalarType::Byte, forget);
    const std::lock_guard<std::mutex> lock(registry().mutex);
    registry().objects.emplace(byte.release(), std::move(object));
    return tensor;
  }

  // Null if the tensor stands for no such object.
  static std::shared_ptr<const Object> find(const torch::stable::Tensor& tensor) {
    if (!tensor.is_cpu() || tensor.numel() != 1) return nullptr;
    const std::lock_guard<std::mutex> lock(registry().mutex);
    const auto entry = registry().objects.find(tensor.data_ptr());
    return entry == registry().objects.end() ? nullptr : entry->second;
  }

 private:
  struct Registry {
    std::mutex mutex;
    std::unordered_map<void*, std::shared_ptr<const Object>> objects;
  };

  // Never destroyed: tensors may outlive the library's static objects.
  static Registry& registry() {
    static Registry* const instance = new Registry;
    return *instance;
  }

  static void forget(void* byte) {
    std::shared_ptr<const Object> object;  // what it held is given back after the lock
    {
      const std::lock_guard<std::mutex> lock(registry().mutex);
      const auto entry = registry().objects.find(byte);
      if (entry != registry().objects.end()) {
        object = std::move(entry->second);
        registry().objects.erase(entry);
      }
    }
    delete static_cast<uint8_t*>(byte);
  }
};

}  // namespace esper
