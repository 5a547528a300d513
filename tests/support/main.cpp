#include "support/run_catch.hpp"

int main(int argc, char** argv) { return syncbn_test::run_catch(argc, argv); }
