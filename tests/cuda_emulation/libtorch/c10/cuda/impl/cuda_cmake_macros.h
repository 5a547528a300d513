#pragma once
// LibTorch's headers of CUDA ask for this file, which its build for CPUs has not.
