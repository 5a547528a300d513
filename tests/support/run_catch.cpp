// The implementation of Catch2 takes longest to compile of all files here: it is built once and linked by every test.
#define CATCH_CONFIG_RUNNER
#include "support/run_catch.hpp"

#include <cstdio>

#include "support/catch.hpp"

int syncbn_test::run_catch(int argc, char** argv) {
  Catch::Session session;
#if __has_include(<catch2/catch_all.hpp>)
  session.configData().warnings = Catch::WarnAbout::NoAssertions;  // a run without a test fails by default
#else
  session.configData().warnings =
      static_cast<Catch::WarnAbout::What>(Catch::WarnAbout::NoAssertions | Catch::WarnAbout::NoTests);
  if (Catch::getAllTestCasesSorted(session.config()).empty()) {
    std::fputs("this program has no test\n", stderr);
    return 1;
  }
#endif
  // Catch's status is the number of failures, and 77 of them would look like a skipped test.
  return session.run(argc, argv) == 0 ? 0 : 1;
}
