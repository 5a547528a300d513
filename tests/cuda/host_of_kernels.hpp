#pragma once

// Host code of another compiler: what it may call of code that nvcc has compiled.

namespace syncbn_test {

void make_backend();
void make_layer();

}  // namespace syncbn_test
