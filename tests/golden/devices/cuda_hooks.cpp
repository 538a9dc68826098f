// Stands in for libtorch's CUDA library in a test: it says that there is one GPU, and has nothing else.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>

namespace at {

// libtorch looks for this name.
struct CUDAHooks : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  const Generator& getDefaultGenerator(DeviceIndex) const override {
    static Generator generator = detail::createCPUGenerator();
    return generator;
  }
};

REGISTER_CUDA_HOOKS(CUDAHooks);

}  // namespace at
