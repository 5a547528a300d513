// Layers in a container that conversion does not look into: they would stay what they are.
// expect: convert_sync_batchnorm: looks into
#include <map>
#include <string>
#include <vector>

#include <syncbn/syncbn.hpp>

#ifdef SYNCBN_MISTAKE
using Layers = std::map<std::string, syncbn::BatchNorm2d<>>;
#else
using Layers = std::vector<std::pair<std::string, syncbn::BatchNorm2d<>>>;
#endif

void convert(const Layers& layers, const syncbn::SingleProcessCommunicator& group) {
  (void)syncbn::convert_sync_batchnorm(layers, group);
}
