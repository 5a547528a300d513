#pragma once

namespace syncbn_test {

// Runs the test cases of this program; returns its exit status. A test without an assertion, and a run without a test,
// is a failure.
int run_catch(int argc, char** argv);

}  // namespace syncbn_test
