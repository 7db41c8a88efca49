#include "src/cli/shipped_model.hpp"

#include <system_error>

#include "kvcodec/core/error.hpp"

namespace kvcodec::cli {

namespace fs = std::filesystem;

fs::path shipped_model(const std::string& name) {
  std::error_code ignored;
  const fs::path here = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  std::string tried;
  for (const fs::path& models :
       {here / "../share/kvcodec/models", here / "../../../examples/models",
        fs::path(KVCODEC_SOURCE_DIR) / "examples/models"}) {
    const fs::path place = (models / name).lexically_normal();
    if (fs::exists(place / "config.json")) return place;
    tried += (tried.empty() ? "" : ", ") + place.string();
  }
  throw invalid_argument("the shipped model " + name + " is not at " + tried +
                         "; name its folder by --model");
}

}  // namespace kvcodec::cli
