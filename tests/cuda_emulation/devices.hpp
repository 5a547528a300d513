#pragma once

// Which device a thread uses.

namespace cuda_emulation {

int current_device();

// Uses a device for a while: whoever does the work of a stream is on that stream's device.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_;
};

}  // namespace cuda_emulation
